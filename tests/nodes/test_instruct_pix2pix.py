"""InstructPix2Pix: the formula and its special cases, what each branch sees, and the three ways in which an 8-channel network is loaded."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import toybox
from diffusion.compare import psnr
from diffusion.guidance import Conditional
from diffusion.loading import open_checkpoint, open_unet
from diffusion.mask import grow
from diffusion.sample import sample
from diffusion.session import open_session
from diffusion.spacing import sigmas_for
from diffusion.vae import decode, encode
from diffusion.values import Image, Model, Noise, Sampler, Sigmas
from diffusion.widen import further_channels
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.files import Folders
from nodes.guiders import DualCFGGuider
from nodes.inpaint_model import InstructPixToPixConditioning
from nodes.instruct_pix2pix import ExpandInputChannels, InstructPix2PixGuider
from nodes.load import CheckpointLoaderSimple, DiffusersLoader, UNETLoader
from nodes.text import CLIPTextEncode
from nodes.toybox_pairs import ToyboxEditPairs
from toybox.probe import Probe

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 3
SIGMA = 2.0


@pytest.fixture(scope="module")
def wide_folder(tiny_folder, tmp_path_factory):
    """The checkpoint with a network of eight input channels, whose first layer has other numbers in all of them and another bias."""
    from diffusers import UNet2DConditionModel

    folder = tmp_path_factory.mktemp("checkpoints") / "wide"
    shutil.copytree(tiny_folder, folder)
    config = UNet2DConditionModel.load_config(tiny_folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        UNet2DConditionModel.from_config(config | {"in_channels": 8}).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def wide(wide_folder):
    return open_unet(wide_folder)


@pytest.fixture(scope="module")
def picture():
    return Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def empty(ctx, clip):
    return CLIPTextEncode(text="", clip=clip).run(ctx)


@pytest.fixture
def guided(ctx, wide, red, empty, vae, picture):
    """The guided D, and that of each branch, at some scales."""

    def run(text_scale, image_scale):
        scales = {"text_scale": text_scale, "image_scale": image_scale}
        made = InstructPix2PixGuider(model=wide, instruction=red, nothing=empty, vae=vae, pixels=picture, **scales).run(ctx)
        assert not made.latent.x.any()
        with open_session(wide, made.guider.guidance, ctx.device) as net, torch.no_grad():
            return net.denoise_all(X, SIGMA)

    return run


def test_the_formula_is_equation_3(guided):
    d, each = guided(7.5, 1.5)
    both, picture, nothing = (each[name] for name in ("positive", "middle", "negative"))
    torch.testing.assert_close(d, nothing + 1.5 * (picture - nothing) + 7.5 * (both - picture))
    assert len({float(D.sum()) for D in (both, picture, nothing)}) == 3


def test_scales_of_one_and_zero_are_single_branches(guided):
    d, each = guided(1.0, 1.0)
    torch.testing.assert_close(d, each["positive"], atol=1e-5, rtol=1e-5)  # both differences cancel
    d, each = guided(0.0, 1.0)
    torch.testing.assert_close(d, each["middle"], atol=1e-5, rtol=1e-5)  # the words do not count
    d, each = guided(0.0, 0.0)
    torch.testing.assert_close(d, each["negative"], atol=1e-5, rtol=1e-5)  # nothing does
    d, each = guided(3.0, 1.0)  # plain guidance from the picture alone to the picture and the words
    torch.testing.assert_close(d, each["middle"] + 3.0 * (each["positive"] - each["middle"]), atol=1e-5, rtol=1e-5)


def test_no_picture_is_a_latent_of_zeros_and_a_picture_is_the_unscaled_mode(ctx, guided, wide, red, empty, vae, picture):
    _, each = guided(7.5, 1.5)
    seen = encode(vae, picture, ctx.device).x
    cases = (("positive", red, seen), ("middle", empty, seen), ("negative", empty, torch.zeros_like(seen)))
    for name, conditioning, shown in cases:
        with open_session(wide, Conditional(conditioning.map(concat=shown)), ctx.device) as net, torch.no_grad():
            torch.testing.assert_close(net.denoise(X, SIGMA), each[name], atol=1e-5, rtol=1e-5)


def test_the_nodes_of_saved_graphs_say_the_same(ctx, guided, wide, red, empty, vae, picture):
    wanted, _ = guided(7.5, 1.5)
    shown = InstructPixToPixConditioning(positive=red, negative=empty, vae=vae, pixels=picture).run(ctx)
    scales = {"cfg_conds": 7.5, "cfg_cond2_negative": 1.5}
    guider = DualCFGGuider(model=wide, cond1=shown.positive, cond2=shown.negative, negative=empty, **scales).run(ctx)
    with open_session(wide, guider.guidance, ctx.device) as net, torch.no_grad():
        assert torch.equal(net.denoise(X, SIGMA), wanted)


def test_a_plain_model_which_would_not_see_the_picture_is_refused(ctx, model, red, empty, vae, picture):
    with pytest.raises(NodeError, match="model: one with 4 input channels beside the latent's is wanted, to see the picture; 0 given"):
        InstructPix2PixGuider(model=model, instruction=red, nothing=empty, vae=vae, pixels=picture).run(ctx)


# -- the network --


def test_an_expanded_model_is_the_base_model_whatever_it_is_shown(ctx, model, red, empty, vae, picture):
    plain, expanded = model, ExpandInputChannels(model=model).run(ctx)
    assert (further_channels(plain, ctx.device), further_channels(expanded, ctx.device)) == (0, 4)
    assert ExpandInputChannels(model=expanded).run(ctx) is expanded

    def seen(model, conditioning):
        with open_session(model, Conditional(conditioning), ctx.device) as net, torch.no_grad():
            return net.denoise(X, SIGMA)

    before = seen(plain, red)
    for conditioning in (red, red.map(concat_latent=encode(vae, picture, ctx.device).x)):
        torch.testing.assert_close(seen(expanded, conditioning), before, atol=1e-6, rtol=1e-6)
    assert torch.equal(seen(plain, red), before)


def test_expanding_keeps_the_bias(ctx, model, red):
    """A training script that is in wide use copies the first layer's weights and not its bias."""
    expanded = ExpandInputChannels(model=model).run(ctx)
    with open_session(expanded, Conditional(red), ctx.device) as net:
        wide = {name: parameter.clone() for name, parameter in net.unet.conv_in.named_parameters()}
    with open_session(model, Conditional(red), ctx.device) as net:
        assert net.unet.conv_in.weight.shape[1] == 4
        assert torch.equal(wide["weight"][:, :4], net.unet.conv_in.weight)
        assert torch.equal(wide["bias"], net.unet.conv_in.bias)
    assert wide["bias"].any()
    assert not wide["weight"][:, 4:].any()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A small checkpoint of the 8-channel kind in one file, and its network alone in another."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", Path(__file__).parents[1] / "tools" / "make_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("single")
    tensors = module.make("sd15-ip2p")
    save_file(tensors, folder / "single.safetensors")
    save_file({name: t for name, t in tensors.items() if name.startswith("model.diffusion_model.")}, folder / "network.safetensors")
    return folder


LOADERS = {
    "a folder": lambda: DiffusersLoader(model_path="wide"),
    "a folder's network": lambda: UNETLoader(unet_name="wide"),
    "a file": lambda: CheckpointLoaderSimple(ckpt_name="single.safetensors"),
    "a network's file": lambda: UNETLoader(unet_name="network.safetensors"),
}


@pytest.mark.parametrize("how", LOADERS)
def test_every_loader_keeps_the_bias_and_the_network_sees_the_picture(device, wide_folder, single, tmp_path, how, red, vae, picture):
    kinds = ("checkpoints", "diffusers", "diffusion_models")
    ctx = Context.silent(device, Folders(tmp_path, {kind: [single, wide_folder.parent] for kind in kinds}))
    loaded = LOADERS[how]().run(ctx)
    model = loaded if isinstance(loaded, Model) else loaded.model
    if "folder" in how:
        stored = load_file(wide_folder / "unet" / "diffusion_pytorch_model.safetensors")
        wanted = {name: stored[f"conv_in.{name}"] for name in ("weight", "bias")}
    else:
        stored = load_file(single / "network.safetensors")
        wanted = {name: stored[f"model.diffusion_model.input_blocks.0.0.{name}"] for name in ("weight", "bias")}
        red = red.map(embeds=torch.nn.functional.pad(red.entries[0].embeds, (0, 32)))  # its text is 64 wide
    assert further_channels(model, device) == 4
    with open_session(model, Conditional(red), device) as net, torch.no_grad():
        for name, tensor in wanted.items():
            assert torch.equal(dict(net.unet.conv_in.named_parameters())[name], tensor.to(net.dtype))
    nothing = red.map(embeds=torch.zeros_like(red.entries[0].embeds))
    made = InstructPix2PixGuider(model=model, instruction=red, nothing=nothing, vae=vae, pixels=picture).run(ctx)
    with open_session(model, made.guider.guidance, device) as net, torch.no_grad():
        _, each = net.denoise_all(X, SIGMA)
    assert not torch.allclose(each["middle"], each["negative"], atol=1e-3)  # the picture makes a difference


# -- the embedded variant --


def test_the_embedded_variant_does_what_it_is_told_and_leaves_the_rest(ctx, device):
    """Six edits that it was not trained on; the figures wanted are those of docs/editing.md with room for few samples and steps."""
    _, clip, vae = open_checkpoint(toybox.WEIGHTS)
    model = UNETLoader(unet_name="toybox_instruct").run(ctx)
    sets = [ToyboxEditPairs(seed=300_000, count=3, attribute=attribute, objects="one").run(ctx) for attribute in ("color", "shape")]
    before, after = (torch.cat([getattr(each, name).pixels for each in sets]) for name in ("before", "after"))
    lines = [line for each in sets for line in each.instructions.split("\n")]
    told = [CLIPTextEncode(text=line, clip=clip).run(ctx).entries[0].embeds for line in lines]
    nothing = CLIPTextEncode(text="", clip=clip).run(ctx)
    scales = {"text_scale": 3.0, "image_scale": 1.5}
    made = InstructPix2PixGuider(
        model=model, instruction=nothing.map(embeds=torch.cat(told)), nothing=nothing, vae=vae, pixels=Image(before), **scales
    ).run(ctx)
    sigmas = Sigmas(sigmas_for(model.process.table(), "karras", 8))
    out = sample(made.guider, Noise(1), Sampler.of("dpmpp_2m"), sigmas, made.latent, device)[0]
    pixels = decode(vae, out, device).pixels
    probe = Probe.load()
    wanted, found = (probe.read(each) for each in (after, pixels))
    seen = [(reading.objects[0].color.label, reading.objects[0].shape.label) if reading.objects else None for reading in (*wanted, *found)]
    right = [a == b for a, b in zip(seen[:6], seen[6:], strict=True)]
    assert sum(right) >= 5
    changed = torch.cat([each.mask.values for each in sets])
    error, edit = (((x - after).square().mean(-1) * changed).sum() for x in (pixels, before))
    assert error < 0.4 * edit
    away = 1 - grow(changed, 8, tapered_corners=False)  # the VAE sees a little beyond each cell
    assert psnr(pixels, before, away) > 30
