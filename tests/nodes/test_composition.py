"""Techniques together in one graph each, on the engine; and after each the plain models paint bit for bit what they painted before."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file

from diffusion import attention
from diffusion.loading import open_checkpoint
from diffusion.sample import fit_mask
from graph_engine import Engine, Folders, Graph, Registry
from graph_engine.events import NodeStarted
from graph_engine.stream import Cancellation

WALK = {"sampler_name": "euler", "scheduler": "normal"}
CHECKPOINTS = {"tiny": "tiny", "xl": "xl/xl.safetensors"}


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def tool(name):
    """A file of tests/tools as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tools" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(tiny_folder, tmp_path_factory, device):
    """Small checkpoints of SD 1 and SDXL, each with a LoRA and a ControlNet of random weights, and two pictures that differ in a part."""
    from diffusers import ControlNetModel

    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_folder, home / "models/checkpoints/tiny")
    (home / "models/checkpoints/xl").mkdir()
    save_file(tool("make_checkpoint").make("sdxl"), home / "models/checkpoints/xl/xl.safetensors")
    (home / "models/loras").mkdir()
    maker = tool("make_lora")
    for name, file in CHECKPOINTS.items():
        model = open_checkpoint(home / "models/checkpoints" / file)[0]
        with device.weights(model.weights) as unet, torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            net = ControlNetModel.from_unet(unet)
            shapes = {f"unet:{path}": tuple(weight.shape) for path, weight in unet.state_dict().items()}
        for module in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(module.weight, std=0.3, generator=torch.Generator().manual_seed(4))
        net.save_pretrained(home / "models/controlnet" / name)
        save_file(maker.contiguous(maker.kohya(maker.make(shapes))), home / f"models/loras/{name}.safetensors")
    (home / "input").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 13, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    Picture.fromarray(pixels).save(home / "input/original.png")
    pixels[40:64, 48:72] = 255 - pixels[40:64, 48:72]
    Picture.fromarray(pixels).save(home / "input/edited.png")
    return home


@pytest.fixture
def engine(registry, home, device):
    """Without a cache, so that whatever is asked for is computed."""
    with Engine(registry, device=device, folders=Folders(home), cache_bytes=0) as engine:
        yield engine


def perform(engine, graph, *wanted):
    result = engine.perform(graph, wanted=[*wanted])
    result.raise_for_error()
    return [result[name] for name in wanted]


def opened(registry, name="tiny"):
    """A graph with a checkpoint and three prompts."""
    g = Graph(registry)
    loaded = g.CheckpointLoaderSimple(ckpt_name=CHECKPOINTS[name])
    return g, loaded, *(g.CLIPTextEncode(clip=loaded.clip, text=text) for text in ("a red cat", "a blue cat", ""))


@pytest.fixture
def plain(engine, registry):
    """What each model paints by itself."""

    def paint():
        pictures = []
        for name in CHECKPOINTS:
            g, loaded, red, _, empty = opened(registry, name)
            start = g.EmptyLatentImage(width=128, height=128)
            both = {"positive": red, "negative": empty, "latent_image": start}
            g.KSampler(model=loaded.model, **both, **WALK, seed=1, steps=2, cfg=3.0, denoise=1.0, _id="end")
            pictures.append(perform(engine, g, "end")[0].x)
        return pictures

    return paint


@pytest.fixture(autouse=True)
def the_plain_models_are_as_before(plain):
    before = plain()
    yield
    assert all(torch.equal(now, then) for now, then in zip(plain(), before, strict=True))


def sparsely(registry, eta=1.0):
    """SDEdit of an edited picture, "dense" and by what was "recorded" of the original: "sparse", and "same" without an edit."""
    g, loaded, red, _, empty = opened(registry)
    pictures = [g.LoadImage(image=f"{name}.png") for name in ("original", "edited")]
    original, edited = (g.VAEEncode(pixels=each.image, vae=loaded.vae) for each in pictures)
    mask = g.SparseDifference(original=pictures[0].image, edited=pictures[1].image, dilate=5).mask
    sampler = g.SamplerEulerAncestral(eta=eta, s_noise=1.0)
    sigmas = g.BasicScheduler(model=loaded.model, scheduler="normal", steps=3, denoise=0.5)
    guider = g.CFGGuider(model=loaded.model, positive=red, negative=empty, cfg=3.0)
    recorded = g.SparseCache(
        noise=g.RandomNoise(noise_seed=4), guider=guider, sampler=sampler, sigmas=sigmas, latent_image=original, _id="recorded"
    )
    nowhere = g.SolidMask(value=0.0, width=104, height=96)
    walk = {"positive": red, "negative": empty, "cfg": 3.0, "seed": 4, "sampler": sampler, "sigmas": sigmas}
    for name, where, guide in (("sparse", mask, edited), ("same", nowhere, original)):
        patched = g.SparseEdit(model=loaded.model, cache=recorded.cache, mask=where).model
        g.SDEdit(model=patched, guide=guide, **walk, _id=name)
    g.SDEdit(model=loaded.model, guide=edited, **walk, _id="dense")
    return g


@pytest.mark.parametrize("eta", [0.0, 1.0])  # the ODE, and the paper's stochastic walk
def test_sparse_inference_under_sdedit(engine, registry, eta):
    g = sparsely(registry, eta)
    first, same, sparse, dense = (each.x for each in perform(engine, g, "recorded", "same", "sparse", "dense"))
    assert torch.equal(same, first)  # nothing was edited
    inside = (dense - first).abs().amax(1, keepdim=True) > 0.5 * (dense - first).abs().max()
    error, change = (((x - dense) * inside).square().sum() for x in (sparse, first))
    assert error < 0.1 * change


def masked(registry):
    """The "mask" of DiffEdit for a picture, its latent "start", and SDEdit "masked" by it and of the "whole"."""
    g, loaded, red, blue, empty = opened(registry)
    start = g.VAEEncode(pixels=g.LoadImage(image="original.png").image, vae=loaded.vae, _id="start")
    found = g.NoiseContrastMask(model=loaded.model, samples=start, target=blue, source=red, maps=3, clamp=2.1, _id="mask")
    walk = {"model": loaded.model, "guide": start, "positive": blue, "negative": empty, "level": 0.6, "steps": 4, "cfg": 3.0, "seed": 2}
    g.SDEdit(**walk, mask=found.mask, _id="masked")
    g.SDEdit(**walk, _id="whole")
    return g


def test_the_mask_of_diffedit_in_masked_sdedit(engine, registry):
    g = masked(registry)
    start, mask, partly, whole = perform(engine, g, "start", "mask", "masked", "whole")
    cells = fit_mask(mask.values[:, None], start.x).expand_as(start.x) > 0
    assert 0 < cells.float().mean() < 1
    assert torch.equal(partly.x[~cells], start.x[~cells])
    assert (partly.x != start.x)[cells].float().mean() > 0.99
    assert not torch.equal(whole.x[~cells], start.x[~cells])


def edit(registry, name, lora=True, control=True, target=True):
    """Prompt-to-Prompt with a LoRA and a ControlNet, as a graph that ends in "end"."""
    g, loaded, red, blue, empty = opened(registry, name)
    pair = g.SourceAndTarget(samples=g.EmptyLatentImage(width=128, height=128), source=red, target=blue if target else red)
    model = loaded.model
    if lora:
        model = g.LoraLoaderModelOnly(model=model, lora_name=f"{name}.safetensors", strength_model=1.0)
    positive, negative = pair.positive, empty
    model = g.PromptToPrompt(model=model, alignment=g.AlignPrompts(positive=positive, mode="replace"), cross_replace=0.7)
    if control:
        net, hint = g.ControlNetLoader(control_net_name=name), g.LoadImage(image="edited.png").image
        steered = g.ControlNetApplyAdvanced(
            positive=positive, negative=negative, control_net=net, image=hint, strength=1.0, start_percent=0.0, end_percent=1.0
        )
        positive, negative = steered.positive, steered.negative
    both = {"positive": positive, "negative": negative, "latent_image": pair.latent}
    g.KSampler(model=model, **both, **WALK, seed=3, steps=4, cfg=3.0, denoise=1.0, _id="end")
    return g


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_prompt_to_prompt_with_a_lora_and_a_controlnet(engine, registry, name):
    def edited(*how):
        return perform(engine, edit(registry, name, *how), "end")[0].x

    source, target = edited(True, True, True)
    same = edited(True, True, False)
    assert torch.equal(same[0], same[1])  # identical prompts are the source
    assert torch.equal(same[0], source)  # which the target beside it does not touch
    assert not torch.allclose(target, source, atol=1e-2)
    for lora, control in ((False, True), (True, False)):  # both count
        assert not torch.allclose(edited(lora, control, True)[1], target, atol=1e-2)


GRAPHS = {
    "end": lambda registry: edit(registry, "tiny"),
    "end, xl": lambda registry: edit(registry, "xl"),
    "sparse": sparsely,
    "masked": masked,
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("how", ["cancelled", "error"])
def test_an_edit_that_breaks_off_leaves_nothing_behind(engine, registry, name, how, monkeypatch):
    graph, node, wish, heard = GRAPHS[name](registry), name.split(",")[0], Cancellation(), []

    def hear(event):
        if isinstance(event, NodeStarted) and event.node == node:
            heard.append(event)

    def disturb(call, attend=attention.attend):
        if heard and call.site.place == "up":  # in the middle of the network, with everything in effect
            if how == "error":
                raise ArithmeticError
            wish.set()  # heard at the end of the step
        return attend(call)

    monkeypatch.setattr(attention, "attend", disturb)
    assert engine.perform(graph, wanted=[node], on_event=hear, cancellation=wish).status == how
    assert heard
    monkeypatch.undo()
    whole = perform(engine, graph, node)[0]  # and the next run is as ever
    x = (whole[0] if isinstance(whole, tuple) else whole).x
    assert torch.isfinite(x).all()
