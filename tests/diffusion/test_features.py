from dataclasses import dataclass

import pytest
import torch

from diffusion.features import total
from diffusion.guidance import Conditional
from diffusion.patch import Block, FeaturePatch, Residuals
from diffusion.session import open_session


@dataclass(frozen=True, slots=True, eq=False)
class Tap(FeaturePatch):
    seen: list
    only: str = ""

    def at_block(self, block: Block) -> bool:
        return self.only in block.name

    def block(self, call, next):
        out = next(call)
        self.seen.append((call.block, call.h, out))
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Inject(FeaturePatch):
    name: str
    h: torch.Tensor

    def at_block(self, block: Block) -> bool:
        return block.name == self.name

    def block(self, call, next):
        return self.h


@dataclass(frozen=True, slots=True, eq=False)
class Side(FeaturePatch):
    strength: float
    intra: bool = False
    mid_only: bool = False

    def residuals(self, call):
        generator = torch.Generator().manual_seed(7)
        b = len(call.rows)

        def noise(c, n):
            return torch.randn(1, c, n, n, generator=generator).expand(b, -1, -1, -1) * self.strength

        if self.intra:
            return Residuals(intra=(noise(32, 8), noise(64, 4)))
        down = tuple(noise(c, n) for c, n in ((32, 8), (32, 8), (32, 4), (64, 4)))
        mid = noise(64, 4)
        return Residuals(mid=mid) if self.mid_only else Residuals(down, mid)


def run(model, device, red, x, *patches):
    with open_session(model.patched(*patches), Conditional(red), device) as net:
        return net.denoise(x, 3.0)


def test_every_block_can_be_tapped_in_order_of_execution_without_effect(model, device, red, x):
    tap = Tap([])
    assert torch.equal(run(model, device, red, x, tap), run(model, device, red, x))
    blocks = [block for block, _, _ in tap.seen]
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert {"in.conv", "down.0.resnet.0", "down.0.sampler", "mid.attention.0", "up.1.resnet.1", "out.conv"} <= {b.name for b in blocks}
    assert len({b.name for b in blocks}) == len(blocks) == 19
    for block, h, _ in tap.seen:
        assert h.shape[-1] == 8 // block.scale


def test_decoder_resnets_tell_the_skip_connection_apart(model, device, red, x):
    tap = Tap([])
    run(model, device, red, x, tap)
    outputs = {block.name: out for block, _, out in tap.seen}
    inputs = {block.name: (h, block.split) for block, h, _ in tap.seen}
    h, split = inputs["up.1.resnet.1"]
    assert torch.equal(h[:, :split], outputs["up.1.attention.0"])
    assert torch.equal(h[:, split:], outputs["in.conv"])
    h, split = inputs["up.0.resnet.0"]
    assert torch.equal(h[:, :split], outputs["mid.resnet.1"])
    assert torch.equal(h[:, split:], outputs["down.1.attention.0"])


@pytest.mark.parametrize("name", ["up.0.attention.1", "up.0.resnet.1", "mid.resnet.0", "down.0.sampler", "out.conv"])
def test_injected_features_are_what_the_network_goes_on_with(model, device, red, x, name):
    tap = Tap([], name)
    plain = run(model, device, red, x, tap)
    (_, _, out) = tap.seen[-1]
    assert torch.equal(run(model, device, red, x, Inject(name, out)), plain)
    assert not torch.equal(run(model, device, red, x, Inject(name, out + 1)), plain)


def test_later_patches_wrap_earlier_ones(model, device, red, x):
    out_of = Inject("mid.resnet.0", torch.ones(2, 64, 4, 4))
    tap = Tap([], "mid.resnet.0")
    run(model, device, red, x, out_of, tap)
    assert torch.equal(tap.seen[0][2], out_of.h)
    hidden = Tap([], "mid.resnet.0")
    run(model, device, red, x, hidden, out_of)
    assert hidden.seen == []


@pytest.mark.parametrize("more", [{}, {"intra": True}, {"mid_only": True}])
def test_residuals_add_up_and_zero_is_nothing(model, device, red, x, more):
    plain = run(model, device, red, x)
    assert torch.equal(run(model, device, red, x, Side(0.0, **more)), plain)
    full = run(model, device, red, x, Side(1.0, **more))
    assert not torch.allclose(full, plain, atol=1e-3)
    assert torch.allclose(run(model, device, red, x, Side(0.25, **more), Side(0.75, **more)), full, atol=1e-4)


def test_residuals_reach_the_places_they_name(model, device, red, x):
    tap, with_side = Tap([], "mid"), Tap([], "mid")
    run(model, device, red, x, tap)
    run(model, device, red, x, Side(1.0), with_side)
    for (block, h, _), (_, h_side, _) in zip(tap.seen, with_side.seen, strict=True):
        assert torch.equal(h, h_side), block.name  # skips and the middle's output get them, the middle's blocks do not


def test_residuals_of_the_wrong_number_are_refused(model, device, red, x):
    @dataclass(frozen=True, slots=True, eq=False)
    class Short(FeaturePatch):
        def residuals(self, call):
            return Residuals((torch.zeros(()),))

    with pytest.raises(ValueError, match="4 for the skip connections are wanted, 1 given"):
        run(model, device, red, x, Short())


def test_totals():
    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert total([None, None]) is None
    summed = total([Residuals((one, two)), None, Residuals((two, two), mid=one), Residuals(intra=(one,))])
    assert [t.item() for t in (*summed.down, summed.mid, *summed.intra)] == [3, 4, 1, 1]
    with pytest.raises(ValueError, match="1 and 2"):
        total([Residuals((one,)), Residuals((one, two))])
