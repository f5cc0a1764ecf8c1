import itertools
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from diffusion.patch import WeightPatch
from diffusion.values import WeightsRef
from diffusion.weights import Blend, FullDelta, LowRankDelta, SetWeight, applied, opened


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"linear": nn.Linear(6, 5), "conv": nn.Conv2d(3, 4, 3)})


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(seed: int, **more) -> LowRankDelta:
    return LowRankDelta("linear.weight", randn(5, 2, seed=seed), randn(2, 6, seed=seed + 100), **more)


def test_a_low_rank_delta_is_what_the_formula_says(module):
    weight = module["linear"].weight.detach().clone()
    delta = low_rank(1, alpha=1.0, strength=0.7)
    with applied(module, [delta]):
        assert torch.allclose(module["linear"].weight, weight + 0.7 * (1.0 / 2) * delta.up @ delta.down, atol=1e-6)


def test_without_alpha_the_factor_is_one(module):
    weight = module["linear"].weight.detach().clone()
    delta = low_rank(1)
    with applied(module, [delta]):
        assert torch.allclose(module["linear"].weight, weight + delta.up @ delta.down, atol=1e-6)


@pytest.mark.parametrize("tucker", [False, True])
def test_a_convolution_delta_is_the_two_convolutions_in_a_row(module, tucker):
    x = randn(1, 3, 8, 8)
    up = randn(4, 2, 1, 1, seed=1)
    down = randn(2, 3, 1, 1, seed=2) if tucker else randn(2, 3, 3, 3, seed=2)
    mid = randn(2, 2, 3, 3, seed=3) if tucker else None
    before = module["conv"](x)
    h = nn.functional.conv2d(x, down)
    expected = before + nn.functional.conv2d(h if mid is None else nn.functional.conv2d(h, mid), up)
    with applied(module, [LowRankDelta("conv.weight", up, down, mid=mid)]):
        assert torch.allclose(module["conv"](x), expected, atol=1e-5)


def test_the_sum_does_not_depend_on_the_order_bit_for_bit(module):
    deltas = [low_rank(i, strength=s, alpha=a) for i, s, a in ((1, 0.1, None), (2, -1.7, 4.0), (3, 1e3, None))]
    deltas.append(FullDelta("linear.weight", randn(5, 6, seed=9)))
    results = []
    for order in itertools.permutations(deltas):
        with applied(module, order):
            results.append(module["linear"].weight.detach().clone())
    assert all(torch.equal(results[0], other) for other in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_undone_bit_for_bit_also_after_a_failure(module, dtype):
    module = module.to(dtype)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def use_and_fail():
        with applied(module, [low_rank(1, strength=3.0)]):
            assert not torch.equal(module["linear"].weight, before["linear.weight"])
            assert module["linear"].weight.dtype == dtype
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use_and_fail()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_strength_zero_is_nothing_at_all(module):
    pointer = module["linear"].weight.data_ptr()
    with applied(module, [low_rank(1, strength=0.0)]):
        assert module["linear"].weight.data_ptr() == pointer


def test_half_precision_weights_are_summed_in_single_precision(module):
    module = module.half()
    small = torch.full((5, 6), 1e-4)
    with applied(module, [FullDelta("linear.weight", small, 3.0)] * 1):
        once = module["linear"].weight.detach().clone()
    with applied(module, [FullDelta("linear.weight", small)] * 3):
        assert torch.equal(module["linear"].weight, once)


def test_misfits_are_named_and_leave_nothing_behind(module):
    before = module["linear"].weight.detach().clone()
    with pytest.raises(KeyError, match=r"nowhere\.weight"), applied(module, [FullDelta("nowhere.weight", torch.zeros(1))]):
        pass
    good = low_rank(1)
    for bad in (
        FullDelta("linear.bias", torch.zeros(4)),
        LowRankDelta("conv.weight", torch.zeros(4, 2), torch.zeros(3, 27)),
        LowRankDelta("conv.weight", torch.zeros(4, 2), torch.zeros(2, 26)),
    ):
        with pytest.raises(ValueError, match=bad.name), applied(module, [good, bad]):
            pass
    assert torch.equal(module["linear"].weight, before)


# -- what is not a sum --


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"down": nn.Linear(6, 5), "out": nn.Linear(5, 4, bias=seed != 9)})


@pytest.fixture
def several():
    refs = {name: WeightsRef("sd1", name, "unet", name) for name in ("a", "b")}
    modules = {refs["a"]: network(1), refs["b"]: network(2)}

    @contextmanager
    def open(ref):
        assert ref not in busy, "opened twice"
        busy.append(ref)
        yield modules[ref]
        busy.remove(ref)

    busy = []
    return refs, modules, open


@dataclass(frozen=True)
class Add(WeightPatch):
    items: tuple

    def deltas(self):
        return self.items


def test_a_blend_is_a_weighted_sum_of_two_patched_networks(several):
    refs, modules, open = several
    a, b = (modules[refs[name]]["down"].weight.detach().clone() for name in "ab")
    mine, theirs, later = (FullDelta("down.weight", randn(5, 6, seed=i)) for i in range(3))
    blend = Blend(refs["b"], (Add((theirs,)),), (("", 0.25, 0.75), ("out.", 1.0, 0.0)))
    with opened(refs["a"], (Add((mine,)), blend, Add((later,))), open) as module:
        wanted = 0.25 * (a + mine.diff) + 0.75 * (b + theirs.diff) + later.diff
        assert torch.allclose(module["down"].weight, wanted, atol=1e-6)
        assert module["out"].weight.data_ptr() == modules[refs["a"]]["out"].weight.data_ptr()
    assert torch.equal(modules[refs["a"]]["down"].weight, a)
    assert torch.equal(modules[refs["b"]]["down"].weight, b)


def test_a_network_blends_with_itself(several):
    refs, _, open = several
    delta = FullDelta("down.weight", randn(5, 6))
    with opened(refs["a"], (Add((delta,)), Blend(refs["a"], (), (("", 1.0, -1.0),))), open) as module:
        assert torch.allclose(module["down"].weight, delta.diff, atol=1e-6)
        assert not module["out"].weight.any()


def test_blending_all_of_one_gives_its_bits(several):
    refs, modules, open = several
    for own, wanted in ((1.0, "a"), (0.0, "b")):
        numbers = {name: p.detach().clone() for name, p in modules[refs[wanted]].named_parameters()}
        with opened(refs["a"], (Blend(refs["b"], (), (("", own, 1.0 - own),)),), open) as module:
            assert all(torch.equal(p, numbers[name]) for name, p in module.named_parameters())


def test_parameters_that_are_not_shared_stay_with_a_warning(several):
    refs, modules, open = several
    modules[refs["b"]] = network(9)
    bias = modules[refs["a"]]["out"].bias.detach().clone()
    with (
        pytest.warns(UserWarning, match=r"1 of 4 parameters .*out\.bias"),
        opened(refs["a"], (Blend(refs["b"], (), (("", 0.5, 0.5),)),), open) as m,
    ):
        assert torch.equal(m["out"].bias, bias)
    modules[refs["b"]] = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="shares no parameter"), opened(refs["a"], (Blend(refs["b"], (), (("", 0.5, 0.5),)),), open):
        pass


def test_a_set_weight_forgets_what_came_before_and_not_what_comes_after(module):
    value, before, after = (
        randn(5, 6, seed=1),
        FullDelta("linear.weight", randn(5, 6, seed=2)),
        FullDelta("linear.weight", randn(5, 6, seed=3)),
    )
    with applied(module, [before, SetWeight("linear.weight", value), after]):
        assert torch.equal(module["linear"].weight, value + after.diff)
    pointer = module["linear"].weight.data_ptr()
    with applied(module, [SetWeight("linear.weight", value, 0.0)]):
        assert module["linear"].weight.data_ptr() == pointer
    with pytest.raises(ValueError, match=r"linear\.weight"), applied(module, [SetWeight("linear.weight", value[:2])]):
        pass


def test_order_does_not_matter_where_deltas_begin_alike(module):
    deltas = []
    for i in range(3):
        diff = torch.ones(5, 6)
        diff[4] = randn(6, seed=i) * 1e3
        deltas.append(FullDelta("linear.weight", diff, 0.1))
    results = []
    for order in itertools.permutations(deltas):
        with applied(module, order):
            results.append(module["linear"].weight.detach().clone())
    assert all(torch.equal(results[0], other) for other in results)
