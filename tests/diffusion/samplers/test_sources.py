import torch

from diffusion.samplers import WhiteNoise


def test_white_noise_on_the_cpu_is_seeded_one_further():
    x = torch.zeros(1, 4, 8, 8)
    source = WhiteNoise(7, x)
    rng = torch.Generator().manual_seed(8)
    assert torch.equal(source(3.0, 2.0), torch.randn(1, 4, 8, 8, generator=rng))
    assert torch.equal(source(2.0, 1.0), torch.randn(1, 4, 8, 8, generator=rng))


def test_white_noise_takes_the_largest_seed():
    x = torch.zeros(16)
    assert torch.equal(WhiteNoise(2**64 - 1, x)(1.0, 0.5), torch.randn(16, generator=torch.Generator().manual_seed(0)))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    WhiteNoise(0, torch.zeros(4))(2.0, 1.0)
    assert torch.equal(torch.get_rng_state(), before)
