import itertools
import math

import pytest
import torch

from diffusion.samplers import BrownianNoise, WhiteNoise


def test_white_noise_on_the_cpu_is_seeded_one_further():
    x = torch.zeros(1, 4, 8, 8)
    source = WhiteNoise(7, x)
    rng = torch.Generator().manual_seed(8)
    assert torch.equal(source(3.0, 2.0), torch.randn(1, 4, 8, 8, generator=rng))
    assert torch.equal(source(2.0, 1.0), torch.randn(1, 4, 8, 8, generator=rng))


def test_white_noise_takes_the_largest_seed():
    x = torch.zeros(16)
    assert torch.equal(WhiteNoise(2**64 - 1, x)(1.0, 0.5), torch.randn(16, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def source():
    return BrownianNoise(5, torch.zeros(20000))


@pytest.mark.parametrize(("a", "b"), [(14.6, 9.1), (1.7, 0.9), (0.9, 0.45), (0.08, 0.03), (3.0001, 3.0), (8.0, 4.0), (300.0, 0.002)])
def test_increments_are_standard_normal(source, a, b):
    z = source(a, b)
    assert z.mean().item() == pytest.approx(0, abs=0.03)
    assert z.std().item() == pytest.approx(1, abs=0.02)
    assert (z**4).mean().item() == pytest.approx(3, abs=0.25)


def test_increments_add_up(source):
    a, b, c = 9.3, 4.7, 1.1
    whole = source(a, c) * math.sqrt(a - c)
    parts = source(a, b) * math.sqrt(a - b) + source(b, c) * math.sqrt(b - c)
    assert torch.allclose(whole, parts, atol=1e-5)
    assert torch.equal(source(a, b), -source(b, a))


def test_increments_of_disjoint_intervals_are_independent(source):
    levels = [14.6, 9.1, 8.0, 5.5, 3.2, 1.7, 1.0, 0.9, 0.4, 0.03]
    z = torch.stack([source(a, b) for a, b in itertools.pairwise(levels)])
    assert torch.allclose(torch.corrcoef(z), torch.eye(len(z)), atol=0.03)


def test_w_does_not_depend_on_the_queries():
    x = torch.zeros(2, 3)
    levels = [14.6, 0.03, 2.2, 7.0, 1.0, 0.5, 2.2]
    first, second = BrownianNoise(5, x), BrownianNoise(5, x)
    forwards = {s: first.at(s) for s in levels}
    backwards = {s: second.at(s) for s in reversed(levels)}
    assert all(torch.equal(forwards[s], backwards[s]) for s in levels)
    assert not torch.equal(BrownianNoise(6, x).at(2.2), forwards[2.2])


def test_the_variance_of_w_grows_with_the_distance_from_its_anchor(source):
    for sigma in (0.05, 0.7, 1.3, 6.0, 14.6):
        assert source.at(sigma).var().item() == pytest.approx(abs(sigma - 1), rel=0.05)
    assert bool((source.at(1.0) == 0).all())


def test_points_close_together_keep_their_covariance(source):
    a, b, c = 5.0 + 3e-3, 5.0 + 1e-3, 5.0
    share = (source(a, c) * source(a, b)).mean().item()
    assert share == pytest.approx(math.sqrt((a - b) / (a - c)), abs=0.03)


def test_dtype_and_shape_follow_the_state():
    z = BrownianNoise(0, torch.zeros(1, 4, 2, 2, dtype=torch.float16))(2.0, 1.0)
    assert z.dtype == torch.float16
    assert z.shape == (1, 4, 2, 2)


@pytest.mark.parametrize("pair", [(2.0, 2.0), (0.0, 1.0), (1.0, -1.0), (math.inf, 1.0)])
def test_levels_without_an_increment(pair):
    with pytest.raises(ValueError, match="noise"):
        BrownianNoise(0, torch.zeros(2))(*pair)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    BrownianNoise(0, torch.zeros(4))(2.0, 1.0)
    WhiteNoise(0, torch.zeros(4))(2.0, 1.0)
    assert torch.equal(torch.get_rng_state(), before)
