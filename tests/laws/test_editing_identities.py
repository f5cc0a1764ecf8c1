"""What an edit that asks for nothing gives: the source, the reconstruction or the plain run, bit for bit, through the nodes themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.text import encode
from diffusion.values import Guider, Latent, Mask, Noise, Sampler, Sigmas
from graph_engine.context import Context
from nodes.ddim_inversion import DDIMInversion
from nodes.diffedit import MaskedDDIMDecode
from nodes.local_blend import LocalBlend
from nodes.null_text import NullTextInversion
from nodes.paint_with_words import PaintWithWords
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt, ReweightWord
from nodes.sample import KSampler
from nodes.sdedit import SDEdit
from nodes.sige import SparseCache, SparseEdit, SparseVAECache, SparseVAEDecode
from nodes.source_and_target import SourceAndTarget
from nodes.trajectory_replay import ReplayTrajectory

CTX = Context.silent(TorchDevice("cpu"))
SAMPLERS = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "ddim")
PICTURES = Latent(torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0)) * 3, format="sd1")
SCALE = 0.18215  # of an SD 1 latent
NOWHERE, EVERYWHERE = Mask(torch.zeros(1, 64, 48)), Mask(torch.ones(1, 64, 48))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    source = Path(__file__).parents[1] / "diffusion" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_checkpoint", source)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    tool.write_checkpoint(folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint[0]


@pytest.fixture(scope="module")
def told(checkpoint):
    return lambda text: encode(checkpoint[1], text, CTX.device)


def sampled(model, positive, negative, latent, sampler="euler", scale=3.0):
    walk = {"sampler_name": sampler, "scheduler": "karras", "steps": 4, "cfg": scale, "seed": 7, "denoise": 1.0}
    return KSampler(model=model, positive=positive, negative=negative, latent_image=latent, **walk).run(CTX).x


def beside(told, *prompts):
    """Rows with a prompt each."""
    pair = SourceAndTarget(samples=PICTURES, source=told(prompts[0]), target=told(prompts[1])).run(CTX)
    for prompt in prompts[2:]:
        pair = SourceAndTarget(samples=PICTURES, source=pair.positive, target=told(prompt)).run(CTX)
    return pair


@pytest.mark.parametrize("mode", ["replace", "refine"])
@pytest.mark.parametrize(("sampler", "scale"), [*((name, 3.0) for name in SAMPLERS), ("euler", 1.0)])
def test_replacing_by_identical_prompts_is_the_source(model, told, mode, sampler, scale):
    text, empty = "a red cat and a blue cat", told("")
    pair = beside(told, text, text, text)
    edit = PromptToPrompt(model=model, alignment=AlignPrompts(positive=pair.positive, mode=mode).run(CTX), cross_replace=1.0).run(CTX)
    x = sampled(edit, pair.positive, empty, pair.latent, sampler, scale)
    plain = sampled(model, pair.positive, empty, pair.latent, sampler, scale)
    assert all(torch.equal(row, plain[0]) for row in x)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_reweighting_by_1_is_the_source(model, told, sampler):
    text, empty = "a red cat and a blue cat", told("")
    pair = beside(told, text, text)
    alignment = AlignPrompts(positive=pair.positive, mode="refine").run(CTX)
    weighed = ReweightWord(alignment=alignment, word="blue", scale=1.0).run(CTX)
    x = sampled(PromptToPrompt(model=model, alignment=weighed).run(CTX), pair.positive, empty, pair.latent, sampler)
    plain = sampled(model, pair.positive, empty, pair.latent, sampler)
    assert torch.equal(x[0], plain[0])
    assert torch.equal(x[1], plain[0])
    heavier = ReweightWord(alignment=alignment, word="blue", scale=1.5).run(CTX)
    assert not torch.equal(sampled(PromptToPrompt(model=model, alignment=heavier).run(CTX), pair.positive, empty, pair.latent, sampler), x)


def edits(model, told):
    """Every node that takes a mask as (what an empty one leaves, the edit for a mask), over two pictures each."""
    red, blue, empty = told("a red cat"), told("a blue fox"), told("")
    path = DDIMInversion(model=model, samples=PICTURES, positive=red, steps=4).run(CTX).trajectory

    def decode(mask):
        return MaskedDDIMDecode(model=model, trajectory=path, positive=blue, negative=empty, ratio=0.75, mask=mask).run(CTX).latent.x

    def sdedit(mask, **how):
        walk = {"guide": PICTURES, "level": 0.6, "steps": 3, "seed": 5, **how}
        return SDEdit(model=model, positive=blue, negative=empty, mask=mask, **walk).run(CTX).latent.x

    pair = beside(told, "a red cat", "a blue fox")
    alignment = AlignPrompts(positive=pair.positive, mode="replace").run(CTX)
    edit = PromptToPrompt(model=model, alignment=alignment).run(CTX)
    kept = sampled(edit, pair.positive, empty, pair.latent)[:1].expand(2, -1, -1, -1)

    def blend(mask):
        node = LocalBlend(model=edit, alignment=alignment, source_words="", target_words="", start=0.0, mask=mask)
        return sampled(edit if mask is None else node.run(CTX), pair.positive, empty, pair.latent)

    return {
        "DiffEdit": (path.latents[0] / SCALE, decode),
        "SDEdit": (PICTURES.x, sdedit),
        "SDEdit, fresh": (PICTURES.x, lambda mask: sdedit(mask, background_noise="fresh", repeats=2)),
        "SDEdit, dpmpp_2m": (PICTURES.x, lambda mask: sdedit(mask, sampler=Sampler.of("dpmpp_2m"))),
        "local blend": (kept, blend),
    }


@pytest.mark.parametrize("way", ["DiffEdit", "SDEdit", "SDEdit, fresh", "SDEdit, dpmpp_2m", "local blend"])
def test_a_mask_of_0_is_the_reconstruction_and_one_of_1_the_unmasked_edit(model, told, way):
    kept, edit = edits(model, told)[way]
    assert torch.equal(edit(NOWHERE), kept)
    unmasked = edit(None)
    assert torch.equal(edit(EVERYWHERE), unmasked)
    assert not torch.equal(unmasked, kept)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_paint_with_words_at_weight_0_is_plain(model, told, sampler):
    red, empty = told("a red cat"), told("")
    painted = PaintWithWords(conditioning=red, mask=EVERYWHERE, words="red", weight=0.0).run(CTX)
    assert torch.equal(sampled(model, painted, empty, PICTURES, sampler), sampled(model, red, empty, PICTURES, sampler))
    heavier = PaintWithWords(conditioning=red, mask=EVERYWHERE, words="red", weight=0.3).run(CTX)
    assert not torch.equal(sampled(model, heavier, empty, PICTURES, sampler), sampled(model, red, empty, PICTURES, sampler))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("statistics", ["cached", "recomputed"])
def test_sparse_inference_without_an_edit_is_the_cache(model, told, sampler, statistics):
    guidance = CFG(told("a red cat"), told(""), 3.0)
    walk = {
        "noise": Noise(3),
        "sampler": Sampler.of(sampler),
        "sigmas": Sigmas(torch.tensor([5.0, 1.0, 0.3, 0.0])),
        "latent_image": PICTURES,
    }
    recorded = SparseCache(guider=Guider(model, guidance), **walk).run(CTX)
    sparse = SparseEdit(model=model, cache=recorded.cache, mask=NOWHERE, statistics=statistics).run(CTX)
    again = SparseCache(guider=Guider(sparse.model, guidance), **walk).run(CTX)
    assert sparse.share == 0
    assert torch.equal(again.output.x, recorded.output.x)


def test_a_sparse_decoding_without_an_edit_is_the_cache(checkpoint):
    recorded = SparseVAECache(vae=checkpoint[2], samples=Latent(PICTURES.x[:1])).run(CTX)
    again = SparseVAEDecode(vae=checkpoint[2], samples=Latent(PICTURES.x[:1].clone()), cache=recorded.cache).run(CTX)
    assert torch.equal(again.image.pixels, recorded.image.pixels)


def test_null_text_at_guidance_1_is_ddim(model, told):
    red, empty = told("a red cat"), told("")
    path = DDIMInversion(model=model, samples=PICTURES, positive=red, steps=4).run(CTX).trajectory
    tuned = NullTextInversion(model=model, trajectory=path, positive=red, negative=empty, cfg=1.0).run(CTX)
    plain, replayed = (ReplayTrajectory(model=model, trajectory=t, positive=red, negative=empty).run(CTX) for t in (path, tuned.trajectory))
    assert torch.equal(replayed.trajectory.latents, plain.trajectory.latents)
    assert torch.equal(replayed.latent.x, plain.latent.x)
    assert all(torch.equal(step, empty.entries[0].embeds) for step in tuned.trajectory.uncond)  # and its embeddings are the prompt's own
