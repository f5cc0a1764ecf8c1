import math

import pytest
import torch

from diffusion.noise import noise_to_level, prepare_noise


def test_golden_values():
    noise = prepare_noise((1, 4, 64, 64), 0)
    assert noise[0, 0, 0, :4].tolist() == pytest.approx([-1.1258398, -1.1523602, -0.2505786, -0.4338788], abs=1e-6)
    assert noise.mean().item() == pytest.approx(-0.0075752, abs=1e-6)
    assert noise.std().item() == pytest.approx(1.004208, abs=1e-5)
    noise = prepare_noise((1, 4, 64, 64), 42)
    assert noise[0, 0, 0, :4].tolist() == pytest.approx([1.9269153, 1.4872841, 0.9007172, -2.1055210], abs=1e-6)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first = prepare_noise((1, 4, 8, 8), 7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(prepare_noise((1, 4, 8, 8), 7), first)
    torch.set_rng_state(before)


def test_one_sample_of_a_batch_keeps_its_noise():
    batch = prepare_noise((4, 4, 8, 8), 5)
    assert torch.equal(prepare_noise((1, 4, 8, 8), 5, [3])[0], batch[3])
    assert torch.equal(prepare_noise((4, 4, 8, 8), 5, [0, 1, 2, 3]), batch)


def test_batch_index_repeats_and_reorders():
    batch = prepare_noise((3, 4, 8, 8), 5)
    assert torch.equal(prepare_noise((4, 4, 8, 8), 5, [2, 0, 2, 1]), batch[[2, 0, 2, 1]])


@pytest.mark.parametrize("seed", [0, 2**32, 2**63, 2**64 - 1])
def test_the_whole_range_of_seeds(seed):
    assert prepare_noise((1, 4, 8, 8), seed).std().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match="seed"):
        prepare_noise((1, 4, 8, 8), seed)


@pytest.mark.parametrize("index", [[0], [0, 1, 2], [0, -1]])
def test_batch_index_must_fit(index):
    with pytest.raises(ValueError, match="batch_index"):
        prepare_noise((2, 4, 8, 8), 0, index)


def test_dtype():
    assert prepare_noise((1, 4, 8, 8), 0, dtype=torch.float16).dtype == torch.float16


def test_start_state():
    latent, noise = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    partial, full = noise_to_level(latent, noise, 2.0, 14.6), noise_to_level(latent, noise, 14.6, 14.6)
    assert partial.unique().tolist() == [5.0]
    assert full[0, 0, 0, 0].item() == pytest.approx(3 + math.sqrt(1 + 14.6**2), rel=1e-6)
    almost = noise_to_level(latent, noise, 14.6 * (1 - 5e-6), 14.6)
    assert almost[0, 0, 0, 0].item() == pytest.approx(full[0, 0, 0, 0].item(), rel=1e-5)
    below = noise_to_level(latent, noise, 14.6 * (1 - 5e-5), 14.6)
    assert below[0, 0, 0, 0].item() == pytest.approx(3 + 14.6 * (1 - 5e-5), rel=1e-6)
    assert noise_to_level(latent, noise, 20.0)[0, 0, 0, 0] == 23.0  # no sigma_max: never "full"
