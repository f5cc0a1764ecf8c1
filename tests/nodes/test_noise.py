import math

import pytest
import torch

from diffusion.noise import prepare_noise
from diffusion.values import Image, Latent, Noise, Sampler, Sigmas
from nodes.custom_sampling import SamplerCustomAdvanced
from nodes.guiders import BasicGuider
from nodes.noise import AddNoise, NoiseToLevel
from nodes.vae import VAEEncode

SCALE = 0.18215
CLEAN = Latent(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)) / SCALE)


@pytest.mark.parametrize(("level", "unit", "timestep"), [(0.5, "fraction", 500), (1.0, "fraction", 999), (250, "timestep", 250)])
def test_a_level_is_a_share_of_the_timesteps_or_a_timestep(ctx, model, level, unit, timestep):
    out = NoiseToLevel(model=model, samples=CLEAN, level=level, unit=unit, seed=4).run(ctx)
    table = model.process.table()
    assert out.timestep == pytest.approx(timestep, abs=1)
    assert out.sigma == pytest.approx(table.sigma(level * 999 if unit == "fraction" else level))
    ab, noise = 1 / (1 + out.sigma**2), prepare_noise(CLEAN.x.shape, 4)
    wanted = math.sqrt(ab) * CLEAN.x * SCALE + math.sqrt(1 - ab) * noise  # Ho et al. 2020, eq. 4
    assert torch.allclose(out.x_t.x * SCALE, wanted, atol=1e-5)
    assert torch.allclose(out.latent.x * math.sqrt(ab), out.x_t.x, rtol=1e-5, atol=1e-5)
    assert out.sigmas.values.tolist() == pytest.approx([out.sigma])


def test_level_zero_is_clean_and_x_t_has_unit_variance_throughout(ctx, model):
    out = NoiseToLevel(model=model, samples=CLEAN, level=0.0).run(ctx)
    assert (out.sigma, out.timestep) == (0, 0)
    assert torch.allclose(out.latent.x, CLEAN.x)
    for level in (0.2, 0.6, 1.0):
        x_t = NoiseToLevel(model=model, samples=CLEAN, level=level).run(ctx).x_t.x * SCALE
        assert x_t.std().item() == pytest.approx(1, abs=0.1)


def test_a_picture_goes_through_the_vae(ctx, model, vae):
    image = Image(torch.rand(1, 64, 64, 3))
    out = NoiseToLevel(model=model, samples=image, vae=vae, level=0.3).run(ctx)
    wanted = NoiseToLevel(model=model, samples=VAEEncode(pixels=image, vae=vae).run(ctx), level=0.3).run(ctx)
    assert torch.equal(out.latent.x, wanted.latent.x)
    with pytest.raises(ValueError, match="vae: a VAE is wanted to noise a picture, none given"):
        NoiseToLevel(model=model, samples=image).run(ctx)


def test_a_sampler_goes_on_from_the_noised_latent(ctx, model, red):
    noised = NoiseToLevel(model=model, samples=CLEAN, level=2.0, unit="sigma", seed=4).run(ctx)
    levels = Sigmas(torch.tensor([2.0, 1.0, 0.0]))
    parts = {"guider": BasicGuider(model=model, conditioning=red).run(ctx), "sampler": Sampler.of("euler"), "sigmas": levels}
    on = SamplerCustomAdvanced(noise=Noise(None), latent_image=noised.latent, **parts).run(ctx).output
    whole = SamplerCustomAdvanced(noise=Noise(4), latent_image=CLEAN, **parts).run(ctx).output
    assert torch.allclose(on.x, whole.x, atol=1e-4)


def test_levels_out_of_range_are_refused(ctx, model):
    assert list(NoiseToLevel.check({"level": 1.5})) == [("level", "a fraction from 0 to 1 is wanted, 1.5 given")]
    assert not list(NoiseToLevel.check({"level": 1.5, "unit": "sigma"}))
    with pytest.raises(ValueError, match="level: a timestep from 0 to 999 is wanted by this model, 1000"):
        NoiseToLevel(model=model, samples=CLEAN, level=1000, unit="timestep").run(ctx)
    with pytest.raises(ValueError, match="samples: a sd1 latent of 4 channels is wanted by this model, sdxl with 4 given"):
        NoiseToLevel(model=model, samples=Latent(CLEAN.x, format="sdxl")).run(ctx)


def test_added_noise_has_the_strength_of_the_range(ctx, model):
    def added(*levels: float) -> torch.Tensor:
        out = AddNoise(model=model, noise=Noise(4), sigmas=Sigmas(torch.tensor(levels)), latent_image=CLEAN).run(ctx)
        return (out.x - CLEAN.x) * SCALE

    noise = prepare_noise(CLEAN.x.shape, 4)
    assert torch.allclose(added(5.0, 3.0, 2.0), noise * 3, atol=1e-4)
    assert torch.allclose(added(5.0), noise * 5, atol=1e-4)
    assert not added().any()
