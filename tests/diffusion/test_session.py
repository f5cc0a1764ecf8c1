import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch

from diffusion import conditioning
from diffusion.guidance import CFG, Conditional
from diffusion.patch import AttentionPatch, FeaturePatch, GuidancePatch, StepPatch, WeightPatch
from diffusion.process import Process
from diffusion.samplers import integrate, make_stepper
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.weights import FullDelta, LowRankDelta

K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Nothing(AttentionPatch, FeaturePatch, GuidancePatch, StepPatch, WeightPatch):
    """Speaks at every seam and says nothing."""

    def deltas(self):
        return (FullDelta(K, torch.ones(64, 32), 0.0),)

    def __call__(self, call, next):
        return next(call)

    def at_block(self, block):
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Lora(WeightPatch):
    strength: float = 1.0
    seed: int = 0

    def deltas(self):
        g = torch.Generator().manual_seed(self.seed)
        return (LowRankDelta(K, torch.randn(64, 2, generator=g), torch.randn(2, 32, generator=g), alpha=1.0, strength=self.strength),)


@dataclass(frozen=True, slots=True, eq=False)
class Share(AttentionPatch):
    """Mutual self-attention: the target reads the source's keys and values (MasaCtrl)."""

    def at_site(self, site):
        return not site.cross

    def __call__(self, call, next):
        for branch in ("positive", "negative"):
            if branch in call.rows:
                call = call.swap_kv(call.rows[branch, "source"], call.rows[branch, "target"])
        return next(call)


@dataclass(frozen=True, slots=True, eq=False)
class Reweight(AttentionPatch):
    """Multiplies one column of the target's cross-attention (Prompt-to-Prompt)."""

    token: int
    scale: float

    def at_site(self, site):
        return site.cross

    def __call__(self, call, next):
        def edit(probs):
            out = probs.clone()
            out[call.rows["target"], :, :, self.token] *= self.scale
            return out

        return next(call.edit_probs(edit))


@dataclass(frozen=True, slots=True, eq=False)
class Store(AttentionPatch):
    """Sums the probabilities that it sees; the sums live in the session."""

    def begin(self, run):
        return StoreState({})


@dataclass(slots=True, eq=False)
class StoreState(AttentionPatch):
    sums: dict[str, torch.Tensor]

    def at_site(self, site):
        return site.cross

    def __call__(self, call, next):
        def edit(probs):
            self.sums[call.site.name] = self.sums.get(call.site.name, 0) + probs
            return probs

        return next(call.edit_probs(edit))


def weights(model, device) -> dict[str, torch.Tensor]:
    with device.weights(model.weights) as unet:
        return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def outside(model, device) -> dict[str, object]:
    """What a session may change about the modules, apart from weights."""
    with device.weights(model.weights) as unet:
        return {name: (getattr(m, "processor", None), "forward" in vars(m), len(m._forward_hooks)) for name, m in unet.named_modules()}


# -- laws --


def test_a_session_with_patches_that_do_nothing_is_the_plain_network(model, device, guidance, x):
    with open_session(model, guidance, device) as net:
        plain = net.denoise(x, 2.0)
    with open_session(model.patched(Nothing(), Nothing()), guidance, device) as net:
        assert torch.equal(net.denoise(x, 2.0), plain)


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt])
def test_everything_is_undone_however_the_run_ends(model, device, guidance, x, end):
    before, modules = weights(model, device), outside(model, device)
    with open_session(model, guidance, device) as net:
        plain = net.denoise(x, 2.0)
    patched = model.patched(Lora(), Nothing(), Share(), Reweight(5, 3.0), Store())

    def run():
        with open_session(patched, guidance, device, samples=("source", "target")) as net:
            assert not torch.allclose(net.denoise(x, 2.0), plain, atol=1e-3)
            if end is not None:
                raise end

    if end is None:
        run()
    else:
        with pytest.raises(end):
            run()
    after = weights(model, device)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert outside(model, device) == modules
    with open_session(model, guidance, device) as net:
        assert torch.equal(net.denoise(x, 2.0), plain)


def test_everything_is_undone_when_a_patch_fails_to_begin_or_to_compute(model, device, guidance, x):
    @dataclass(frozen=True, slots=True, eq=False)
    class Broken(Nothing):
        when: str = "begin"

        def begin(self, run):
            if self.when == "begin":
                raise RuntimeError("begin")
            return self

        def residuals(self, call):
            raise RuntimeError("compute")

    before, modules = weights(model, device), outside(model, device)
    for when in ("begin", "compute"):
        with pytest.raises(RuntimeError, match=when), open_session(model.patched(Lora(), Broken(when)), guidance, device) as net:
            net.denoise(x, 2.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model, device).items())
    assert outside(model, device) == modules


def test_a_closed_session_and_a_second_one_are_refused(model, device, guidance, x):
    with open_session(model, guidance, device) as net:
        with pytest.raises(RuntimeError, match="another session"), open_session(model, guidance, device):
            pass
        net.denoise(x, 2.0)
    with pytest.raises(RuntimeError, match="closed"):
        net.denoise(x, 2.0)


def test_store_share_reweight_and_delta_compose_and_leave_the_source_alone(model, device, guidance, x):
    pair = x[:1].expand(2, -1, -1, -1).contiguous()
    names = ("source", "target")
    results = {}
    for label, patches in {
        "plain": (),
        "share": (Share(),),
        "reweight": (Reweight(5, 4.0),),
        "all": (Share(), Reweight(5, 4.0), Store()),
        "all, other order": (Store(), Reweight(5, 4.0), Share()),
        "delta": (Lora(),),
        "delta and all": (Share(), Lora(), Reweight(5, 4.0), Store()),
    }.items():
        with open_session(model.patched(*patches), guidance, device, samples=names) as net:
            results[label] = net.denoise(pair, 2.0)
            if "all" in label:
                store = next(p for p in patches if isinstance(p, Store))
                assert len(net.state(store).sums) == 7
    for label in ("share", "reweight", "all", "all, other order"):
        assert torch.allclose(results[label][0], results["plain"][0], atol=1e-4), label
    # the two rows began equal: sharing keys and values among equals is no change
    assert torch.allclose(results["share"][1], results["plain"][1], atol=1e-4)
    assert not torch.allclose(results["all"][1], results["plain"][1], atol=1e-3)
    assert torch.allclose(results["all"], results["all, other order"], atol=1e-5)
    assert torch.allclose(results["delta and all"][0], results["delta"][0], atol=1e-4)
    assert not torch.allclose(results["delta and all"][1], results["all"][1], atol=1e-3)


def test_a_store_sees_probabilities_that_sum_to_one(model, device, red, x):
    store = Store()
    with open_session(model.patched(store), Conditional(red), device) as net:
        net.denoise(x, 2.0)
        net.denoise(x, 1.0)
        sums = net.state(store).sums
    for name, probs in sums.items():
        assert torch.allclose(probs.sum(-1), torch.full(probs.shape[:-1], 2.0), atol=1e-5), name


def test_the_state_of_a_run_does_not_outlive_it(model, device, red, x):
    store = Store()
    patched = model.patched(store)
    for _ in range(2):
        with open_session(patched, Conditional(red), device) as net:
            net.denoise(x, 2.0)
            assert all(torch.allclose(p.sum(-1), torch.ones(())) for p in net.state(store).sums.values())
    with open_session(model, Conditional(red), device) as net, pytest.raises(KeyError, match="Store"):
        net.state(store)


def test_a_batch_is_its_rows_one_by_one(model, device, guidance, x):
    with open_session(model, guidance, device) as net:
        together = net.denoise(x, 2.0)
        for i in range(2):
            assert torch.allclose(net.denoise(x[i : i + 1], 2.0), together[i : i + 1], atol=1e-4)


def test_nothing_writes_into_inputs(model, device, guidance, red, x):
    masked = conditioning.set_mask(red, _mask())
    both = CFG(conditioning.combine(guidance.positive, masked), guidance.negative, 3.0)
    tensors = [x, masked.entries[0].mask, *(e.embeds for c in (both.positive, both.negative) for e in c)]
    versions = [tensor._version for tensor in tensors]
    with open_session(model.patched(Lora(), Store()), both, device) as net:
        net.denoise(x, 2.0)
    assert [tensor._version for tensor in tensors] == versions


def test_gradients_reach_the_state(model, device, guidance, x):
    x = x.clone().requires_grad_()
    with open_session(model.patched(Store()), guidance, device) as net:
        net.denoise(x, 2.0).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


# -- numbers --


def zeroed(unet_output: float) -> WeightPatch:
    """Turns the network into a constant: its last convolution gets weight 0 and this bias."""

    @dataclass(frozen=True, slots=True, eq=False)
    class Constant(WeightPatch):
        weight: torch.Tensor
        bias: torch.Tensor

        def deltas(self):
            return FullDelta("conv_out.weight", -self.weight), FullDelta("conv_out.bias", unet_output - self.bias)

    return Constant  # type: ignore[return-value]


@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_denoised_picture_of_a_constant_network_is_known(model, device, guidance, x, sigma, prediction):
    before = weights(model, device)
    constant = zeroed(0.5)(before["conv_out.weight"], before["conv_out.bias"])
    changed = replace(model.patched(constant), process=Process(prediction))
    expected = {
        "epsilon": x - sigma * 0.5,
        "v_prediction": x / (sigma**2 + 1) - 0.5 * sigma / math.sqrt(sigma**2 + 1),
        "sample": torch.full_like(x, 0.5),
    }[prediction]
    with open_session(changed, guidance, device) as net:
        assert torch.allclose(net.denoise(x, sigma), expected, atol=1e-5)


def test_guided_is_made_of_the_branches(model, device, guidance, x):
    with open_session(model, guidance, device) as net:
        positive, negative = net.predict("positive", x, 2.0), net.predict("negative", x, 2.0)
        assert not torch.allclose(positive, negative, atol=1e-3)
        assert torch.allclose(net.denoise(x, 2.0), negative + 3.0 * (positive - negative), atol=1e-4)
        assert torch.allclose(net.predict(guidance.negative, x, 2.0), negative)


def test_eps_is_the_vp_form_of_the_same_prediction(model, device, guidance, x):
    with open_session(model, guidance, device) as net:
        sigma = 1.7
        x_vp = x / math.sqrt(1 + sigma**2)
        assert torch.allclose(net.eps(x_vp, sigma), (x - net.denoise(x, sigma)) / sigma, atol=1e-5)


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 2), (2.0, 4)])
def test_the_negative_branch_is_skipped_at_scale_one(model, device, guidance, x, scale, rows):
    seen = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Count(FeaturePatch):
        def residuals(self, call):
            seen.append(list(call.rows))
            return

    with open_session(model.patched(Count()), replace(guidance, scale=scale), device) as net:
        d = net.denoise(x, 2.0)
        assert seen == [["positive", "negative"][: rows // 2]]
        if scale == 1.0:
            assert torch.equal(d, net.predict("positive", x, 2.0))


def test_a_patch_can_insist_on_the_negative_branch_and_combine_anew(model, device, guidance, x):
    @dataclass(frozen=True, slots=True, eq=False)
    class Double(GuidancePatch):
        def needs(self):
            return frozenset({"negative"})

        def combine(self, call, next):
            return next(call) + call.preds["negative"]

    with open_session(model.patched(Double()), replace(guidance, scale=1.0), device) as net:
        expected = net.predict("positive", x, 2.0) + net.predict("negative", x, 2.0)
        assert torch.allclose(net.denoise(x, 2.0), expected, atol=1e-4)


def test_a_patch_can_add_a_branch_whose_rows_only_it_changes(model, device, guidance, x):
    """Perturbed-attention guidance: a further branch in which self-attention is the identity."""

    @dataclass(frozen=True, slots=True, eq=False)
    class Perturbed(GuidancePatch, AttentionPatch):
        scale: float

        def branches(self, branches: Mapping):
            return {**branches, "perturbed": branches["positive"]}

        def at_site(self, site):
            return site.place == "mid" and not site.cross

        def __call__(self, call, next):
            out = next(call)
            if "perturbed" not in call.rows:
                return out
            out, rows = out.clone(), call.rows["perturbed"]
            out[rows] = call.v[rows]
            return out

        def combine(self, call, next):
            return next(call) + self.scale * (call.preds["positive"] - call.preds["perturbed"])

    with open_session(model, guidance, device) as net:
        plain = net.denoise(x, 2.0)
    with open_session(model.patched(Perturbed(0.0)), guidance, device) as net:
        assert torch.allclose(net.denoise(x, 2.0), plain, atol=1e-4)
    with open_session(model.patched(Perturbed(2.0)), guidance, device) as net:
        perturbed, positive = net.predict("perturbed", x, 2.0), net.predict("positive", x, 2.0)
        assert not torch.allclose(perturbed, positive, atol=1e-4)
        assert torch.allclose(net.denoise(x, 2.0), plain + 2 * (positive - perturbed), atol=1e-3)


def test_combine_may_evaluate_further(model, device, guidance, red, x):
    @dataclass(frozen=True, slots=True, eq=False)
    class Twice(GuidancePatch):
        def combine(self, call, next):
            return call.predict(red, call.x * 0.5)

    with open_session(model.patched(Twice()), guidance, device) as net:
        assert torch.allclose(net.denoise(x, 2.0), net.predict(red, x * 0.5, 2.0), atol=1e-5)


# -- conditioning --


def _mask():
    from diffusion.values import Mask

    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1
    return Mask(mask)


def denoise(model, device, positive, x, sigma=2.0):
    with open_session(model, Conditional(positive), device) as net:
        return net.denoise(x, sigma)


def test_combined_conditionings_are_averaged_by_strength(model, device, red, blue, x):
    a, b = denoise(model, device, red, x), denoise(model, device, blue, x)
    both = conditioning.combine(red, conditioning.set_strength(blue, 3.0))
    assert torch.allclose(denoise(model, device, both, x), (a + 3 * b) / 4, atol=1e-4)
    assert torch.allclose(denoise(model, device, conditioning.combine(red, red), x), a, atol=1e-5)


def test_a_mask_says_where_a_conditioning_holds(model, device, red, blue, x):
    a, b = denoise(model, device, red, x), denoise(model, device, blue, x)
    out = denoise(model, device, conditioning.combine(red, conditioning.set_mask(blue, _mask(), 3.0)), x)
    assert torch.allclose(out[..., 4:], a[..., 4:], atol=1e-5)
    assert torch.allclose(out[..., :4], ((a + 3 * b) / 4)[..., :4], atol=1e-4)


def test_an_area_is_evaluated_on_its_own_crop(model, device, red, x):
    out = denoise(model, device, conditioning.set_area(red, 8, 4, 0, 4), x)
    assert torch.allclose(out[..., 4:], denoise(model, device, red, x[..., 4:]), atol=1e-5)
    assert not out[..., :4].any()


def test_outside_of_every_time_range_the_prediction_is_zero_with_a_warning(model, device, red, blue, x):
    late = conditioning.set_timestep_range(red, 0.5, 1.0)
    edge = model.process.table().percent_to_sigma(0.5)
    assert torch.equal(denoise(model, device, late, x, edge), denoise(model, device, red, x, edge))
    with pytest.warns(UserWarning, match="positive"):
        assert not denoise(model, device, late, x, edge * 1.01).any()
    early = conditioning.set_timestep_range(blue, 0.0, 0.5)
    switched = conditioning.combine(early, conditioning.set_timestep_range(red, 0.500001, 1.0))
    assert torch.equal(denoise(model, device, switched, x, edge * 2), denoise(model, device, blue, x, edge * 2))
    assert torch.equal(denoise(model, device, switched, x, edge / 2), denoise(model, device, red, x, edge / 2))


def test_prompts_of_different_length_guide_each_other(model, device, clip, red, x):
    from diffusion.text import encode

    long = encode(clip, "a red cat and a blue dog on the big green car and a table", device)
    guidance = CFG(long, red, 3.0)
    with open_session(model, guidance, device) as net:
        together = net.denoise(x, 2.0)
        positive, negative = net.predict("positive", x, 2.0), net.predict("negative", x, 2.0)
    assert torch.allclose(together, negative + 3 * (positive - negative), atol=1e-3)
    lengths = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Lengths(AttentionPatch):
        def __call__(self, call, next):
            if call.site.cross:
                lengths.append((list(call.rows), call.k.shape[2]))
            return next(call)

    with open_session(model.patched(Lengths()), guidance, device) as net:
        assert torch.allclose(net.denoise(x, 2.0), together, atol=1e-3)
    assert lengths == [(["positive"], 24)] * 7 + [(["negative"], 12)] * 7  # a patch that may look at tokens sees no repeated axes


def test_a_patch_on_an_entry_acts_on_that_entry_alone(model, device, red, blue, x):
    calls = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Brighten(FeaturePatch):
        def at_block(self, block):
            return block.name == "out.conv"

        def block(self, call, next):
            calls.append(list(call.rows))
            return next(call) + 1.0

    marked = red.map(patches=(Brighten(),))
    with open_session(model, CFG(marked, blue, 3.0), device) as net:
        changed, other = net.predict("positive", x, 2.0), net.predict("negative", x, 2.0)
        assert torch.allclose(net.denoise(x, 2.0), other + 3 * (changed - other), atol=1e-3)
    assert set(map(tuple, calls)) == {("positive",)}
    assert torch.allclose(changed, denoise(model, device, red, x) - 2.0, atol=1e-4)
    assert torch.equal(other, denoise(model, device, blue, x))


def test_each_sample_may_have_its_own_prompt(model, device, red, blue, x):
    both = red.map(embeds=torch.cat([red.entries[0].embeds, blue.entries[0].embeds]))
    out = denoise(model, device, both, x)
    assert torch.allclose(out[:1], denoise(model, device, red, x[:1]), atol=1e-4)
    assert torch.allclose(out[1:], denoise(model, device, blue, x[1:]), atol=1e-4)


def test_embeddings_follow_the_steps(model, device, red, blue, x):
    steps = torch.stack([red.entries[0].embeds, blue.entries[0].embeds])
    guidance = Conditional(red.map(per_step=steps))
    with open_session(model, guidance, device) as net:
        for step, same in zip(Schedule(net.table, [3.0, 2.0, 1.0]), (red, blue), strict=True):
            net.before(x, step)
            assert torch.equal(net.denoise(x, step.sigma), denoise_again(net, same, x, step.sigma))


def denoise_again(net, conditioning, x, sigma):
    return net.predict(conditioning, x, sigma)


# -- steps --


def test_step_patches_wrap_and_see_the_step(model, device, red, x):
    order = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Note(StepPatch):
        name: str

        def before(self, x, step):
            order.append(("before", self.name, step.index))
            return x

        def after(self, x, x0, step):
            order.append(("after", self.name, step.index))
            return x

        def denoise(self, x, step, next):
            order.append(("denoise", self.name, step.index, step.count))
            return next(x, step)

    with open_session(model.patched(Note("a"), Note("b")), Conditional(red), device) as net:
        integrate(make_stepper("euler"), net, x, Schedule(net.table, [3.0, 1.0, 0.0]))
    one = [("before", "b", 0), ("before", "a", 0), ("denoise", "b", 0, 2), ("denoise", "a", 0, 2), ("after", "a", 0), ("after", "b", 0)]
    assert order[:6] == one
    assert len(order) == 12


def test_a_step_patch_may_replace_the_state(model, device, red, x):
    @dataclass(frozen=True, slots=True, eq=False)
    class Pin(StepPatch):
        x: torch.Tensor

        def after(self, x, x0, step):
            return torch.cat([self.x, x[1:]])

    with open_session(model.patched(Pin(x[:1])), Conditional(red), device) as net:
        out = integrate(make_stepper("euler"), net, x, Schedule(net.table, [3.0, 1.0, 0.0]))
    assert torch.equal(out[:1], x[:1])


def test_a_run_tells_patches_what_is_ahead(model, device, red):
    seen = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Plan(StepPatch):
        def begin(self, run):
            seen.append(run)
            return self

    with open_session(model.patched(Plan()), Conditional(red), device, sigmas=(3.0, 1.0, 0.0)) as net:
        (run,) = seen
        assert run.net is net
        assert run.sigmas == (3.0, 1.0, 0.0)
        assert (len(run.sites), len(run.blocks)) == (14, 19)


def test_bad_states_and_branches_are_refused(model, device, red):
    with open_session(model, Conditional(red), device) as net:
        with pytest.raises(ValueError, match="b, c, h, w"):
            net.denoise(torch.zeros(4, 8, 8), 1.0)
        with pytest.raises(KeyError, match="negative"):
            net.predict("negative", torch.zeros(1, 4, 8, 8), 1.0)


def test_all_branches_are_evaluated_on_request_also_those_that_guidance_can_do_without(model, device, red, blue, x):
    class Halve(StepPatch):
        def denoise(self, x, step, next):
            return next(x, step) / 2

    with open_session(model, CFG(red, blue, 1.0), device) as net:
        plain = net.denoise(x, 2.0)
        branches = {name: net.predict(name, x, 2.0) for name in ("positive", "negative")}
    with open_session(model.patched(Halve()), CFG(red, blue, 1.0), device) as net:
        guided, seen = net.denoise_all(x, 2.0)
    assert torch.allclose(guided, plain / 2, atol=1e-5)  # step patches have their say in the guided estimate only
    assert list(seen) == ["positive", "negative"]
    assert all(torch.allclose(seen[name], branches[name], atol=1e-5) for name in branches)


def test_an_area_of_the_negative_counts_in_the_positive_also_where_the_negative_does_not(model, device, red, blue, x):
    """As at any other scale, so that the picture does not jump where the scale reaches 1."""
    negative = conditioning.combine(blue, conditioning.set_area(blue, 4, 4, 2, 2))
    with open_session(model, CFG(red, negative, 1.0), device) as net:
        found = net.denoise(x, 2.0)
    with open_session(model, CFG(red, negative, 3.0), device) as net:
        _, seen = net.denoise_all(x, 2.0)
    with open_session(model, CFG(red, blue, 1.0), device) as net:
        plain = net.denoise(x, 2.0)
    assert torch.allclose(found, seen["positive"], atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)
