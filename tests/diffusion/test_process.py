import pytest
import torch

from diffusion.process import Process


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_are_those_of_diffusers(schedule, zero_snr):
    from diffusers import DDIMScheduler

    table = Process(beta_schedule=schedule, zero_terminal_snr=zero_snr).table()
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=schedule, rescale_betas_zero_snr=zero_snr).alphas_cumprod
    assert torch.allclose(table.alphas_cumprod[:-1].float(), theirs[:-1], rtol=2e-3, atol=2e-6)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="beta_schedule"):
        Process(beta_schedule="other").table()
    with pytest.raises(ValueError, match="prediction"):
        Process(prediction="other")


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_a_perfect_network_gives_the_clean_picture_in_every_form(sigma):
    """x = x0 + σ·ε; the three outputs that are right mean the same D = x0."""
    g = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(1, 4, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    x = x0 + sigma * noise
    alpha = 1 / (1 + sigma**2) ** 0.5
    raw = {"epsilon": noise, "v_prediction": alpha * noise - alpha * sigma * x0, "sample": x0}
    for prediction, output in raw.items():
        assert torch.allclose(Process(prediction).denoised(x, sigma, output), x0, atol=1e-10)
    assert torch.allclose(Process().scale_input(x, sigma), alpha * x)
