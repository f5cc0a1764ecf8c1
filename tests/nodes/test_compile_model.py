"""Compiling: the same numbers, with other patches before and after it, and nothing left of it."""

from dataclasses import dataclass

import pytest
import torch

from diffusion.guidance import Conditional
from diffusion.patch import FeaturePatch
from diffusion.session import open_session
from graph_engine.errors import NodeError
from nodes.compile_model import Compiled, TorchCompileModel
from nodes.free_u import FreeU

SIGMA = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Tap(FeaturePatch):
    seen: list

    def at_block(self, block):
        return block.kind == "resnet"

    def block(self, call, next):
        self.seen.append(call.block.name)
        return next(call)


@pytest.fixture
def x():
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def denoised(red, device, x):
    @torch.no_grad()
    def run(model):
        with open_session(model, Conditional(red), device) as net:
            return net.denoise(x, SIGMA)

    return run


@pytest.fixture
def counted(monkeypatch):
    """How often a graph was compiled and how often one ran; torch's own kernels run it."""
    calls = {"compiled": 0, "ran": 0}

    def backend(graph, inputs):
        calls["compiled"] += 1

        def run(*args):
            calls["ran"] += 1
            return graph(*args)

        return run

    torch._dynamo.reset()
    return backend, calls


def test_the_numbers_stay_and_what_was_compiled_serves_the_next_run(model, denoised, counted, device, red):
    backend, calls = counted
    plain, compiled = denoised(model), model.patched(Compiled(backend))
    torch.testing.assert_close(denoised(compiled), plain, atol=1e-6, rtol=1e-6)
    with open_session(model, Conditional(red), device) as net:
        parts = net._family.plain(net._unet)
    assert calls["ran"] == len(parts) > calls["compiled"] > 0
    first = calls["compiled"]
    denoised(compiled)
    assert (calls["compiled"], calls["ran"]) == (first, 2 * len(parts))
    assert torch.equal(denoised(model), plain)
    assert calls["ran"] == 2 * len(parts)


def test_other_patches_act_whether_they_come_before_or_after(model, denoised, counted):
    backend, calls = counted
    freed = FreeU(model=model, b1=1.5, b2=1.6).run(None)
    wanted = denoised(freed)
    for patches in ((Compiled(backend), *freed.patches), (*freed.patches, Compiled(backend))):
        ran, seen = calls["ran"], []
        torch.testing.assert_close(denoised(model.patched(*patches, Tap(seen))), wanted, atol=1e-6, rtol=1e-6)
        assert calls["ran"] > ran
        assert seen


def test_a_run_that_fails_leaves_nothing_behind(model, device, red, x, denoised, counted):
    plain = denoised(model)
    with pytest.raises(KeyError, match="cut short"), open_session(model.patched(Compiled(counted[0])), Conditional(red), device):
        raise KeyError("cut short")
    with device.weights(model.weights) as unet:
        assert not [module for module in unet.modules() if "forward" in vars(module)]
    assert torch.equal(denoised(model), plain)


def test_cuda_graphs_want_a_cuda_device(model, ctx):
    assert TorchCompileModel(model=model).run(ctx).patches == (*model.patches, Compiled("inductor"))
    with pytest.raises(NodeError, match="backend: cudagraphs needs a CUDA device, this is cpu; take inductor"):
        TorchCompileModel(model=model, backend="cudagraphs").run(ctx)
