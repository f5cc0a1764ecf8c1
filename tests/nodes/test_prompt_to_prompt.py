"""Prompt-to-Prompt: the formula written down anew, its identities bit for bit, and scenes whose ground stays while an attribute changes."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import toybox
from diffusion.control.file import open_control
from diffusion.control.patch import apply_all
from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.pair import stacked
from diffusion.patch import AttentionPatch
from diffusion.sample import sample
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.values import Area, Conditioning, Guider, Image, Latent, Noise, Sampler, Sigmas
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.files import Folders
from nodes.lora import LoraLoaderModelOnly
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt, ReweightWord, WordWindow
from toybox.probe import Probe

STEPS = 3


def together(clip, device, *prompts):
    positive = encode(clip, prompts[0], device)
    for prompt in prompts[1:]:
        positive = stacked(positive, encode(clip, prompt, device))
    return positive


@pytest.fixture
def p2p(ctx):
    def patched(model, positive, mode="refine", change=lambda alignment: alignment, **settings):
        alignment = change(AlignPrompts(positive=positive, mode=mode).run(ctx))
        return PromptToPrompt(model=model, alignment=alignment, **settings).run(ctx)

    return patched


@pytest.fixture
def run(device, blue):
    """Rows that start from the same noise, at the last level."""

    def sampled(model, positive, sampler="euler", steps=STEPS, scale=3.0, samples=(), negative=blue, side=8, seed=5):
        rows = len(positive.entries[0].embeds)
        sigmas = Sigmas(sigmas_for(model.process.table(), "karras", steps, 1.0, sampler))
        latent = Latent(torch.zeros(rows, 4, side, side), batch_index=(0,) * rows)
        guider = Guider(model, CFG(positive, negative, scale))
        return sample(guider, Noise(seed), Sampler.of(sampler), sigmas, latent, device, samples=samples)[0].x

    return sampled


@dataclass
class Spy(AttentionPatch):
    """Keeps the calls that reach it and what they give; `looks`: asks for probabilities and keeps them, too."""

    looks: bool = False

    def __post_init__(self):
        self.calls, self.probs = [], []

    def __call__(self, call, next):
        def keep(probs):
            self.probs.append(probs.clone())
            return probs

        self.calls.append((call, next(call.edit_probs(keep) if self.looks and call.site.cross else call)))
        return self.calls[-1][1]


def expected(call, alignment, cross_share, source=0):
    """Alg. 1 with all maps in the open: {target row: output} of one call's positive rows."""
    first, batch = call.rows["positive"].start, call.rows.batch
    maps = (call.q @ call.k.transpose(-1, -2) * call.scale).softmax(-1)
    n, out = call.step.count, {}
    targets = [i for i in range(batch) if i != source]
    for target, edit in zip(targets, alignment.targets, strict=True):
        m, own = maps[first + source], maps[first + target]
        final = own.clone()
        for j in range(maps.shape[-1]):
            start, end = edit.window[j].tolist() if not edit.window[j].isnan().any() else (0.0, cross_share)
            if int(start * (n + 1)) <= call.step.index < int(end * (n + 1)):
                taken = sum(m[..., i] * edit.mapping[i, j] for i in range(maps.shape[-1]) if edit.mapping[i, j])
                final[..., j] = edit.scale[j] * (taken if edit.matched[j] else own[..., j])
        out[first + target] = final @ call.v[first + target]
    return out


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(
    ("mode", "prompts"),
    [
        ("replace", ("a red cat", "a blue fox")),
        ("refine", ("a red cat", "a big red cat on", "a cat")),
        ("refine", ("a fox", "a dog on a table")),
    ],
)
def test_cross_attention_is_the_papers_in_the_positive_targets_and_as_it_was_elsewhere(run, p2p, model, clip, device, mode, prompts, looks):
    positive = together(clip, device, *prompts)
    word = prompts[1].split()[1]
    patched = p2p(model, positive, mode, lambda a: a.scaled(word, -1.5).windowed("a", 0.5, 1.0), cross_replace=0.6, self_replace=0.0)
    spy = Spy(looks)
    run(patched.patched(spy), positive)
    crosses = [(call, out) for call, out in spy.calls if call.site.cross]
    assert {call.step.index for call, _ in crosses} == set(range(STEPS))
    for number, (call, out) in enumerate(crosses):
        maps = (call.q @ call.k.transpose(-1, -2) * call.scale).softmax(-1)
        wanted = maps @ call.v
        for row, output in expected(call, patched.patches[0].alignment, 0.6).items():
            wanted[row] = output
        torch.testing.assert_close(out, wanted, atol=2e-5, rtol=1e-4)
        if looks:  # what looks from outside sees the edited maps
            torch.testing.assert_close(spy.probs[number] @ call.v, wanted, atol=2e-5, rtol=1e-4)


def test_self_attention_is_the_sources_where_coarse_enough_and_for_the_share(run, p2p, model, clip, device):
    positive = together(clip, device, "a red cat", "a blue dog")
    spy = Spy()
    run(p2p(model, positive, cross_replace=0.0, self_replace=0.5, cells=2).patched(spy), positive)
    for call, out in spy.calls:
        maps = (call.q @ call.k.transpose(-1, -2) * call.scale).softmax(-1)
        first = call.rows["positive"].start
        if not call.site.cross and call.site.scale >= 2 and call.step.index < int(0.5 * STEPS):
            maps[first + 1] = maps[first]
        torch.testing.assert_close(out, maps @ call.v, atol=2e-5, rtol=1e-4)
    assert {call.site.scale for call, _ in spy.calls} == {1, 2}


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "heun", "ddim"])
def test_replacing_by_the_same_prompt_is_the_source_bit_for_bit(run, p2p, model, clip, device, sampler):
    positive = together(clip, device, "a red cat", "a red cat")
    for share in (0.0, 0.5, 1.0):
        x = run(p2p(model, positive, "replace", cross_replace=share, self_replace=share), positive, sampler)
        assert torch.equal(x[0], x[1])


def test_reweighting_by_1_is_the_source_and_by_another_number_is_not(run, p2p, model, clip, device, ctx):
    positive = together(clip, device, "a red cat", "a red cat")
    once = run(p2p(model, positive, change=lambda a: ReweightWord(alignment=a, word="red", scale=1.0).run(ctx)), positive)
    twice = run(p2p(model, positive, change=lambda a: ReweightWord(alignment=a, word="red", scale=2.0).run(ctx)), positive)
    assert torch.equal(once[0], once[1])
    assert torch.equal(twice[0], once[0])
    assert (twice[1] - twice[0]).abs().max() > 1e-3


def test_a_window_of_a_word_moves_only_the_steps_inside(run, p2p, model, clip, device, ctx):
    positive = together(clip, device, "a red cat", "a blue cat")

    def until(end, mode):
        patched = p2p(model, positive, mode, lambda a: WordWindow(alignment=a, word="blue", start=0, end=end).run(ctx), self_replace=0.0)
        return run(patched, positive)

    assert torch.equal(until(0.8, "refine"), until(0, "refine"))  # a new word keeps its own columns anyway
    assert (until(0, "replace")[1] - until(0.8, "replace")[1]).abs().max() > 1e-4


def test_shares_of_0_are_plain_sampling_and_the_source_is_never_touched(run, p2p, model, clip, device):
    positive = together(clip, device, "a red cat", "a blue dog")
    plain = run(model, positive)
    assert torch.equal(run(p2p(model, positive, cross_replace=0.0, self_replace=0.0), positive), plain)
    edited = run(p2p(model, positive), positive)
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3
    alone = run(model, encode(clip, "a red cat", device))
    torch.testing.assert_close(edited[:1], alone, atol=1e-4, rtol=1e-4)


def test_the_order_of_rows_and_further_targets_do_not_matter(run, p2p, model, clip, device):
    one, two, three = "a red cat", "a blue dog", "a big red cat"
    base = run(p2p(model, together(clip, device, one, two)), together(clip, device, one, two))
    swapped = replace_rows(together(clip, device, one, two), [1, 0])
    x = run(p2p(model, together(clip, device, one, two)), swapped, samples=("target", "source"))
    torch.testing.assert_close(x[[1, 0]], base, atol=1e-5, rtol=1e-5)
    several = together(clip, device, one, two, three)
    x = run(p2p(model, several), several)
    torch.testing.assert_close(x[:2], base, atol=1e-4, rtol=1e-4)


def replace_rows(positive, order):
    entry = positive.entries[0]
    tokens = tuple(entry.tokens[i] for i in order)
    return positive.map(embeds=entry.embeds[order], pooled=None if entry.pooled is None else entry.pooled[order], tokens=tokens)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_run_leaves_nothing_behind(run, p2p, model, clip, device, scale):
    positive = together(clip, device, "a red cat", "a blue dog")
    before = run(model, positive, scale=scale)
    run(p2p(model, positive), positive, scale=scale)
    assert torch.equal(run(model, positive, scale=scale), before)


def test_a_patch_inside_computes_what_it_would_without(run, p2p, model, clip, device):
    class AddOwn(AttentionPatch):
        """Adds a term of the row's own, as IP-Adapter does."""

        def at_site(self, site):
            return site.cross

        def __call__(self, call, next):
            return next(call) + 0.1 * call.q

    positive = together(clip, device, "a red cat", "a big blue cat")
    inside = p2p(model.patched(AddOwn()), positive)
    outside = PromptToPrompt(model=model, alignment=inside.patches[-1].alignment).run(None).patched(AddOwn())
    torch.testing.assert_close(run(inside, positive), run(outside, positive), atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def lora(tiny_folder, tmp_path_factory):
    place = Path(__file__).parents[1] / "tools" / "make_lora.py"
    spec = importlib.util.spec_from_file_location("make_lora", place)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = tmp_path_factory.mktemp("loras")
    save_file(tool.contiguous(tool.kohya(tool.make(tool.shapes_in(tiny_folder)))), folder / "small.safetensors")
    return folder


@pytest.fixture(scope="module")
def controlnet(tiny_folder, tmp_path_factory):
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(tiny_folder / "unet"))
        for module in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(module.weight, std=0.3)
    folder = tmp_path_factory.mktemp("controlnet")
    net.save_pretrained(folder)
    return open_control(folder)


def test_it_goes_together_with_a_lora_and_a_controlnet(run, p2p, model, clip, device, blue, lora, controlnet):
    here = Context.silent(device, Folders(lora, {"loras": [lora]}))
    changed = LoraLoaderModelOnly(model=model, lora_name="small.safetensors", strength_model=1.0).run(here)
    picture = Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(8)))
    plain = together(clip, device, "a red cat", "a red cat")
    same, negative = apply_all((plain, blue), controlnet, picture, 1.0)
    before = run(model, plain)
    x = run(p2p(changed, same, "replace"), same, negative=negative)
    assert torch.equal(x[0], x[1])  # the identity holds with both …
    for other in (run(p2p(model, same, "replace"), same, negative=negative), run(p2p(changed, plain, "replace"), plain), before):
        assert (x - other).abs().max() > 1e-3  # … and both count
    pair, negative = apply_all((together(clip, device, "a red cat", "a blue cat"), blue), controlnet, picture, 1.0)
    edited = run(p2p(changed, pair, "replace"), pair, negative=negative)
    assert torch.equal(edited[0], x[0])
    assert (edited[1] - x[1]).abs().max() > 1e-3
    assert torch.equal(run(model, plain), before)


@pytest.mark.parametrize("kind", ["sd21-v", "sdxl"])
def test_it_holds_for_other_families(run, p2p, device, kind, tmp_path):
    place = Path(__file__).parents[1] / "tools" / "make_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_checkpoint", place)
    tool = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    save_file(tool.make(kind), tmp_path / "small.safetensors")
    model, clip, _ = open_checkpoint(tmp_path / "small.safetensors")
    negative = encode(clip, "", device)
    same = together(clip, device, "a red cat", "a red cat")
    x = run(p2p(model, same, "replace", cross_replace=1.0), same, steps=2, negative=negative, side=16)
    assert torch.equal(x[0], x[1])
    pair = together(clip, device, "a red cat", "a big blue cat")
    plain = run(model, pair, steps=2, negative=negative, side=16)
    spy = Spy()
    patched = p2p(model, pair, cross_replace=1.0, self_replace=0.0)
    edited = run(patched.patched(spy), pair, steps=2, negative=negative, side=16)
    assert torch.equal(edited[0], plain[0])
    assert not torch.equal(edited[1], plain[1])
    for call, out in spy.calls:
        if call.site.cross:
            ((row, wanted),) = expected(call, patched.patches[0].alignment, 1.0).items()
            torch.testing.assert_close(out[row], wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: replace_rows(p, [0, 0, 1]), "alignment: it is for 1 targets, and 2 are sampled"),
        (lambda p: replace_rows(p, [0]), "latent: a batch of a source and a target is wanted"),
        (lambda p: replace_rows(p, [1, 0]), "alignment: it is of 'a red cat', 'a blue dog', and 'a blue dog', 'a red cat' are sampled"),
        (lambda p: Conditioning((*p, *replace_rows(p, [0, 0]))), "and 'a red cat', 'a red cat' are sampled; align the very prompts"),
    ],
)
def test_a_batch_that_does_not_fit_is_told(run, p2p, model, clip, device, spoil, message):
    positive = together(clip, device, "a red cat", "a blue dog")
    with pytest.raises((NodeError, ValueError), match=message):
        run(p2p(model, positive), spoil(positive))


@pytest.mark.filterwarnings("ignore:no conditioning")
@pytest.mark.parametrize("range", [{}, {"start": 0.4}, {"end": 0.6}])
def test_an_edit_holds_in_the_areas_and_steps_of_its_prompts(run, p2p, model, clip, device, range):
    same = together(clip, device, "a red cat", "a red cat")
    halves = [same.map(area=Area(8, 4, 0, x), **range) for x in (0, 4)]
    both = Conditioning((*halves[0], *halves[1]))
    x = run(p2p(model, same, "replace", cross_replace=1.0), both)
    assert torch.equal(x[0], x[1])
    pair = together(clip, device, "a red cat", "a blue fox")
    left, right = (pair.map(area=Area(8, 4, 0, x), **range) for x in (0, 4))
    both = Conditioning((*left, *right))
    plain, edited = run(model, both), run(p2p(model, pair, "replace"), both)
    assert torch.equal(edited[0], plain[0])
    assert all((part[1] - other[1]).abs().max() > 1e-3 for part, other in zip(edited.split(4, -1), plain.split(4, -1), strict=True))


def test_prompts_of_several_chunks_are_edited_like_short_ones(run, p2p, model, clip, device):
    long = "a red cat and a dog on the table in a big house with a green door"
    pair = together(clip, device, long, long.replace("cat", "fox"))
    assert len(pair.entries[0].tokens[0]) > pair.entries[0].tokens[0].chunk
    negative = encode(clip, long, device)
    plain = run(model, pair, negative=negative)
    edited = run(p2p(model, pair, "replace", cross_replace=1.0), pair, negative=negative)
    assert torch.equal(edited[0], plain[0])
    assert (edited[1] - plain[1]).abs().max() > 1e-3
    same = together(clip, device, long, long)
    x = run(p2p(model, same, "replace", cross_replace=1.0), same)
    assert torch.equal(x[0], x[1])
    short = together(clip, device, "a red cat", long)  # the shorter one's axis is repeated
    assert torch.isfinite(run(p2p(model, short), short)).all()


def test_a_window_that_ends_before_it_starts_is_told(ctx, clip, device):
    alignment = AlignPrompts(positive=together(clip, device, "a cat", "a dog")).run(ctx)
    with pytest.raises(NodeError, match=r"start: at most end, which is 0.2, is wanted, 0.6 given"):
        WordWindow(alignment=alignment, word="dog", start=0.6, end=0.2).run(ctx)


@pytest.mark.parametrize(("seed", "ground"), [(0, "blue dotted"), (1, "green striped"), (2, "yellow plain")])
def test_a_toybox_objects_new_color_comes_and_its_shape_and_ground_stay(run, p2p, device, seed, ground):
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    negative = encode(clip, "", device)
    pair = together(clip, device, f"a red star on a {ground} background", f"a purple star on a {ground} background")

    def pictures(model):
        return decode(vae, Latent(run(model, pair, "dpmpp_2m", 10, negative=negative, side=16, seed=seed)), device).pixels

    def apart(pixels):
        return (pixels[0] - pixels[1]).square().mean().item()

    plain, edited = pictures(model), pictures(p2p(model, pair, "replace"))
    assert torch.equal(edited[0], plain[0])
    assert apart(edited) <= apart(plain)
    (reading,) = Probe.load().read(edited[1:])
    assert [(o.color.label, o.shape.label) for o in reading.objects] == [("purple", "star")]
    object = (edited[0] - edited[1]).abs().amax(-1) > 0.15
    red = (edited[0, ..., 0] > 0.55) & (edited[0, ..., 1] < 0.45) & (edited[0, ..., 2] < 0.45)
    assert (object & red).sum() / (object | red).sum() > 0.6
