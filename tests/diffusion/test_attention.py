from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from diffusion.attention import attend
from diffusion.guidance import CFG, Conditional
from diffusion.patch import AttentionPatch
from diffusion.session import open_session
from diffusion.values import Conditioning


@dataclass(frozen=True, slots=True, eq=False)
class PassOn(AttentionPatch):
    def __call__(self, call, next):
        return next(call)


@dataclass(frozen=True, slots=True, eq=False)
class LookAtProbs(AttentionPatch):
    def __call__(self, call, next):
        return next(call.edit_probs(lambda probs: probs))


@dataclass(frozen=True, slots=True, eq=False)
class Log(AttentionPatch):
    calls: list

    def __call__(self, call, next):
        self.calls.append(call)
        return next(call)


def run(model, device, red, x, *patches):
    with open_session(model.patched(*patches), Conditional(red), device) as net:
        return net.denoise(x, 3.0)


def stock(model, device, red, x):
    """D from the untouched network with diffusers' own processors."""
    sigma, table = 3.0, model.process.table()
    with device.weights(model.weights) as unet, torch.no_grad():
        t = torch.full((len(x),), table.t(sigma))
        eps = unet(x / (sigma**2 + 1) ** 0.5, t, encoder_hidden_states=red.entries[0].embeds.expand(len(x), -1, -1)).sample
    return x - sigma * eps


def test_the_hub_is_the_stock_processor(model, device, red, x):
    expected = stock(model, device, red, x)
    assert torch.equal(run(model, device, red, x), expected)
    assert torch.equal(run(model, device, red, x, PassOn()), expected)
    assert torch.allclose(run(model, device, red, x, LookAtProbs()), expected, atol=1e-4)


def test_the_fused_path_runs_unless_probabilities_are_asked_for(model, device, red, x, monkeypatch):
    fused = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args, **kwargs: fused.append(1) or real(*args, **kwargs))
    run(model, device, red, x, PassOn())
    assert len(fused) == 14
    fused.clear()

    @dataclass(frozen=True, slots=True, eq=False)
    class OnlyUp(LookAtProbs):
        def at_site(self, site):
            return site.place == "up" and site.cross

    run(model, device, red, x, OnlyUp())
    assert len(fused) == 14 - 4


def test_calls_carry_site_rows_and_moment(model, device, red, x):
    log = Log([])
    run(model, device, red, x, log)
    assert [c.site.index for c in log.calls] == list(range(14))
    assert [c.site.place for c in log.calls] == ["down"] * 4 + ["mid"] * 2 + ["up"] * 8
    assert [c.site.cross for c in log.calls] == [False, True] * 7
    assert [c.site.size[0] for c in log.calls] == [8] * 2 + [4] * 8 + [8] * 4
    assert all(c.q.shape[2] == c.site.size[0] * c.site.size[1] for c in log.calls)
    assert all(c.rows["positive"] == slice(0, 2) for c in log.calls)
    assert all(c.context.shape[1] == (12 if c.site.cross else c.q.shape[2]) for c in log.calls)
    assert {c.step.sigma for c in log.calls} == {3.0}
    assert {c.step.t for c in log.calls} == {model.process.table().t(3.0)}


def test_a_picture_that_is_not_square_has_its_own_sizes(model, device, red):
    log = Log([])
    run(model, device, red, torch.zeros(1, 4, 6, 9), log)
    assert {c.site.size for c in log.calls} == {(6, 9), (3, 5)}


def test_attention_with_edits_is_softmax_edit_product(model, device, red, x):
    log = Log([])
    run(model, device, red, x, log)
    call = log.calls[1]
    assert torch.allclose(attend(call), attend(call.edit_probs(lambda p: p)), atol=1e-5)
    assert torch.allclose(attend(call.edit_probs(lambda p: p * 2)), 2 * attend(call), atol=1e-5)
    biased = call.add_bias(torch.linspace(-1, 1, call.k.shape[2]))
    assert torch.allclose(attend(biased), attend(biased.edit_probs(lambda p: p)), atol=1e-5)
    assert torch.allclose(attend(biased.edit_probs(lambda p: p)), biased.logits().softmax(-1) @ call.v, atol=1e-5)


def test_later_patches_wrap_earlier_ones(model, device, red, x):
    order = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Note(AttentionPatch):
        name: str

        def at_site(self, site):
            return site.index == 1

        def __call__(self, call, next):
            order.append(f"{self.name} in")
            out = next(call.edit_probs(lambda p: (order.append(f"{self.name} probs"), p)[1]))
            order.append(f"{self.name} out")
            return out

    run(model, device, red, x, Note("a"), Note("b"))
    assert order == ["b in", "a in", "a probs", "b probs", "a out", "b out"]


def test_zero_bias_and_identity_edits_change_nothing(model, device, red, x):
    @dataclass(frozen=True, slots=True, eq=False)
    class Bias(AttentionPatch):
        amount: float

        def __call__(self, call, next):
            return next(call.add_bias(torch.full((call.k.shape[2],), self.amount)))

    plain = run(model, device, red, x)
    assert torch.allclose(run(model, device, red, x, Bias(5.0)), plain, atol=1e-4)  # softmax does not see a constant


@pytest.fixture
def projected(model, device):
    """How many texts the cross-attention sites project to keys, counted at their first projection."""
    seen = []
    with device.weights(model.weights) as unet:
        layers = [layer.attn2.to_k for layer in unet.modules() if hasattr(layer, "attn2")]
    forwards = [layer.forward for layer in layers]
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = lambda text, forward=forward: seen.append(text) or forward(text)
    yield seen
    for layer in layers:
        del layer.forward


def test_a_text_is_projected_once_a_session_and_site(model, device, red, blue, x, projected):
    with open_session(model, CFG(red, blue, 3.0), device) as net:
        first = net.denoise(x, 3.0)
        once = len(projected)
        assert torch.equal(net.denoise(x, 3.0), first)
        net.denoise(x, 1.0)
        assert len(projected) == once == 7
        net.predict(blue, x, 1.0)
        assert len(projected) == 2 * once
    assert torch.equal(run(model, device, red, x), stock(model, device, red, x))


def test_a_text_that_is_learned_is_projected_anew(model, device, red, x):
    """As a parameter that an optimiser moves in place, also where it is looked at without gradients."""
    told = red.entries[0].embeds.clone().requires_grad_()
    learned = Conditioning((replace(red.entries[0], embeds=told),))
    with open_session(model, Conditional(learned), device) as net:
        first = net.denoise(x, 3.0)
        (slope,) = torch.autograd.grad(first.square().sum(), told)
        (again,) = torch.autograd.grad(net.denoise(x, 3.0).square().sum(), told)
        torch.testing.assert_close(slope, again)
        with torch.no_grad():
            before = net.denoise(x, 3.0)
            assert torch.equal(net.denoise(x, 3.0), before)
            told += 0.5
            after = net.denoise(x, 3.0)
    assert not torch.equal(before, after)
    with torch.no_grad():
        assert torch.equal(after, run(model, device, learned, x))


def test_layers_that_learn_project_anew(model, device, red, x):
    grown = torch.tensor(1.0)
    with torch.no_grad(), open_session(model, Conditional(red), device) as net:
        layers = [layer.attn2.to_k for layer in net.unet.modules() if hasattr(layer, "attn2")]
        hooks = [layer.register_forward_hook(lambda layer, args, out: out * grown) for layer in layers]
        plain = net.denoise(x, 3.0)
        grown.mul_(2.0)
        assert not torch.equal(net.denoise(x, 3.0), plain)
        for hook in hooks:
            hook.remove()
    assert torch.equal(run(model, device, red, x), stock(model, device, red, x))
