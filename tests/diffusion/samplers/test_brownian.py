import itertools
import math
import random

import pytest
import torch

from diffusion.samplers import BrownianNoise
from diffusion.samplers.brownian import BrownianTree

LOW, HIGH = 0.0291675, 14.614642


def f32(level):
    return torch.tensor(level).item()


# measured on torchsde 0.2.6: BrownianTree(t0=LOW, w0=zeros(4), t1=HIGH, entropy=7)(a, b)
TORCHSDE = {
    (9.102905, HIGH): [-0.399395, 2.932971, -1.9675598, 1.8889761],
    (5.478438, 9.102905): [-4.3926282, 1.9823105, -0.1885512, 6.3697977],
    (LOW, 0.081856): [0.2200081, -0.4099202, -0.1581658, 0.1362332],
    (3.0, 3.00001): [0.0015212, 0.001836, 0.0038993, -0.0028686],
    (LOW, HIGH): [-7.7218404, 9.4146633, -0.2007088, 11.6551609],
}


@pytest.mark.parametrize("order", range(3))
def test_increments_are_those_of_torchsde_in_any_order(order):
    tree = BrownianTree(7, f32(LOW), f32(HIGH), torch.zeros(4))
    queries = [*TORCHSDE, *TORCHSDE]
    random.Random(order).shuffle(queries)
    for a, b in queries:
        assert torch.allclose(tree(f32(a), f32(b)), torch.tensor(TORCHSDE[a, b]), rtol=0, atol=1e-6)


def test_the_largest_seed_and_the_shape_of_a_latent():
    w = BrownianTree(2**64 - 1, f32(LOW), f32(HIGH), torch.zeros(1, 4, 8, 8))(1.0, 2.5)
    assert w[0, 0, 0, :3].tolist() == pytest.approx([-0.0442146, 0.1152594, -2.934955], abs=1e-6)
    assert w[0, 3, 7, -3:].tolist() == pytest.approx([1.0927067, 0.3651102, -2.2942021], abs=1e-6)


def test_falling_levels_take_the_increment_with_its_sign_turned():
    tree, x = BrownianTree(7, f32(LOW), f32(HIGH), torch.zeros(4)), torch.zeros(4)
    z = BrownianNoise(7, x, f32(LOW), f32(HIGH))(9.0, 4.0)
    assert torch.allclose(z, -tree(4.0, 9.0) / math.sqrt(5.0))


@pytest.fixture(scope="module")
def source():
    return BrownianNoise(5, torch.zeros(20000), 0.002, 300.0)


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
    assert torch.allclose(whole, parts, atol=2e-5)
    assert torch.equal(source(a, b), -source(b, a))


def test_increments_of_disjoint_intervals_are_independent(source):
    levels = [14.6, 9.1, 8.0, 5.5, 3.2, 1.7, 1.0, 0.9, 0.4, 0.03]
    z = torch.stack([source(a, b) for a, b in itertools.pairwise(levels)])
    assert torch.allclose(torch.corrcoef(z), torch.eye(len(z)), atol=0.03)


def test_points_close_together_keep_their_covariance(source):
    a, b, c = 5.0 + 3e-3, 5.0 + 1e-3, 5.0
    share = (source(a, c) * source(a, b)).mean().item()
    assert share == pytest.approx(math.sqrt((a - b) / (a - c)), abs=0.03)


def test_noise_does_not_depend_on_the_queries_before():
    levels = [14.6, 0.03, 2.2, 7.0, 1.0, 0.5]
    queries = list(itertools.permutations(levels, 2))
    sources = [BrownianNoise(seed, torch.zeros(2, 3), 0.03, 14.6) for seed in (5, 5, 6)]
    forwards = {pair: sources[0](*pair) for pair in queries}
    assert all(torch.equal(sources[1](*pair), forwards[pair]) for pair in reversed(queries))
    assert not any(torch.equal(sources[2](*pair), forwards[pair]) for pair in queries)


def test_dtype_and_shape_follow_the_state():
    z = BrownianNoise(0, torch.zeros(1, 4, 2, 2, dtype=torch.float16), 0.5, 4.0)(2.0, 1.0)
    assert z.dtype == torch.float16
    assert z.shape == (1, 4, 2, 2)


@pytest.mark.parametrize("pair", [(2.0, 2.0), (0.0, 1.0), (1.0, -1.0), (math.inf, 1.0), (5.0, 1.0), (1.0, 1.0 + 1e-7), (math.nan, 1.0)])
def test_levels_without_an_increment(pair):
    with pytest.raises(ValueError, match="noise"):
        BrownianNoise(0, torch.zeros(2), 0.5, 4.0)(*pair)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    BrownianNoise(0, torch.zeros(4), 0.5, 4.0)(2.0, 1.0)
    assert torch.equal(torch.get_rng_state(), before)
