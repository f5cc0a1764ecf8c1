"""Checkpoint files through the nodes: loaded, saved, loaded again; and what goes wrong said in one sentence."""

import copy
import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from diffusion.family import family
from diffusion.family.text import clip_tokenizer
from diffusion.files import ALLOW
from diffusion.memory import TorchDevice
from diffusion.values import Image, Latent, Mask, Size
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.files import Folders
from nodes.inpaint_model import InpaintModelConditioning, InstructPixToPixConditioning
from nodes.load import CheckpointLoader, CheckpointLoaderSimple, CLIPLoader, DiffusersLoader, DualCLIPLoader, UNETLoader, VAELoader
from nodes.sample import KSampler
from nodes.save_models import CheckpointSave, CLIPSave, ModelSave, VAESave
from nodes.text import CLIPTextEncode, CLIPTextEncodeSDXL, CLIPTextEncodeSDXLRefiner
from nodes.vae import VAEDecode


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_checkpoint", Path(__file__).parents[1] / "tools" / "make_checkpoint.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module
    spec.loader.exec_module(module)
    return module.make


@pytest.fixture(scope="module")
def home(make, tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    (home / "models/checkpoints").mkdir(parents=True)
    for kind in ("sd15", "sd21-v", "sdxl", "sdxl-refiner", "sd15-inpaint", "sd15-ip2p"):
        save_file(make(kind), home / f"models/checkpoints/{kind}.safetensors")
    shutil.copytree(tiny_folder, home / "models/diffusers/tiny")
    return home


@pytest.fixture
def ctx(home, device):
    return Context.silent(device, Folders(home))


def picture(opened, ctx, latent=None):
    model, clip, vae = opened
    positive, negative = (CLIPTextEncode(text=text, clip=clip).run(ctx) for text in ("a red cat", "blue"))
    return sampled(model, positive, negative, vae, ctx, latent)


def sampled(model, positive, negative, vae, ctx, latent=None):
    latent = latent or Latent(torch.zeros(1, 4, 4, 4))
    sampler = KSampler(
        model=model, seed=1, steps=1, sampler_name="euler", scheduler="normal", positive=positive, negative=negative, latent_image=latent
    )
    return VAEDecode(samples=sampler.run(ctx), vae=vae).run(ctx).pixels


@pytest.mark.parametrize("kind", ["sd15", "sd21-v", "sdxl", "sdxl-refiner", "sd15-inpaint", "sd15-ip2p"])
def test_a_checkpoint_saved_and_loaded_again_draws_the_same_bits(kind, ctx, home):
    opened = CheckpointLoaderSimple(ckpt_name=f"{kind}.safetensors").run(ctx)
    first = picture(opened, ctx)
    CheckpointSave(model=opened.model, clip=opened.clip, vae=opened.vae, filename_prefix=f"checkpoints/{kind}").run(ctx)
    shutil.copy(ctx.artifacts[-1].path, home / f"models/checkpoints/again-{kind}.safetensors")
    assert torch.equal(picture(CheckpointLoader(config_name="x.yaml", ckpt_name=f"again-{kind}.safetensors").run(ctx), ctx), first)


def test_parts_saved_one_by_one_and_loaded_again(ctx, home):
    opened = CheckpointLoaderSimple(ckpt_name="sdxl.safetensors").run(ctx)
    ModelSave(model=opened.model).run(ctx)
    CLIPSave(clip=opened.clip).run(ctx)
    VAESave(vae=opened.vae).run(ctx)
    paths = [Path(artifact.path) for artifact in ctx.artifacts]
    assert [path.name for path in paths[1:3]] == ["ComfyUI_clip_l_00001_.safetensors", "ComfyUI_clip_g_00001_.safetensors"]
    for path, kind in zip(paths, ("diffusion_models", "text_encoders", "text_encoders", "vae"), strict=True):
        (home / "models" / kind).mkdir(exist_ok=True)
        shutil.copy(path, home / "models" / kind)
    model = UNETLoader(unet_name=paths[0].name).run(ctx)
    clip = DualCLIPLoader(clip_name1=paths[2].name, clip_name2=paths[1].name, type="sdxl").run(ctx)
    vae = VAELoader(vae_name=paths[3].name).run(ctx)
    assert torch.equal(picture((model, clip, vae), ctx), picture(opened, ctx))
    alone = CLIPLoader(clip_name=paths[1].name).run(ctx)
    assert alone.weights.family == "sd1"
    with pytest.raises(NodeError, match="type: flux"):
        DualCLIPLoader(clip_name1=paths[2].name, clip_name2=paths[1].name, type="flux").run(ctx)


def test_a_diffusers_folder(ctx):
    assert ctx.folders.list("diffusers") == ("tiny",)
    assert torch.isfinite(picture(DiffusersLoader(model_path="tiny").run(ctx), ctx)).all()


def as_folder(opened, folder, device):
    """A checkpoint as diffusers writes it."""
    model, clip, vae = opened
    for part, name in ((model, "unet"), (vae, "vae")):
        with device.weights(part.weights) as module:
            module.save_pretrained(folder / name)
    with device.weights(clip.weights) as text:
        for tower, end in zip(text.towers, ("", "_2"), strict=False):
            parts = dict(tower.model.named_children())
            kind = CLIPTextModelWithProjection if "text_projection" in parts and end else CLIPTextModel
            config = copy.deepcopy(tower.model.config)
            config.num_hidden_layers -= tower.name == "h"  # the last layer is not used, and not in such folders
            config.projection_dim = parts["text_projection"].out_features if "text_projection" in parts else config.projection_dim
            whole = kind(config)
            within = whole.text_model if hasattr(whole, "text_model") else whole
            within.load_state_dict({name: tower.model.state_dict()[name] for name in within.state_dict()})
            if kind is CLIPTextModelWithProjection:
                whole.text_projection.load_state_dict(parts["text_projection"].state_dict())
            whole.save_pretrained(folder / f"text_encoder{end}")
            clip_tokenizer(tower.name == "l").save_pretrained(folder / f"tokenizer{end}")
    about = json.loads((folder / "vae/config.json").read_text()) | {"scaling_factor": family(vae.weights.family).latent.scale}
    (folder / "vae/config.json").write_text(json.dumps(about))
    process = model.process
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": process.prediction}
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("kind", ["sd15", "sd21-v", "sdxl"])
def test_a_diffusers_folder_draws_what_the_single_file_draws_and_so_does_its_saved_copy(kind, ctx, home, device):
    single = CheckpointLoaderSimple(ckpt_name=f"{kind}.safetensors").run(ctx)
    as_folder(single, home / f"models/diffusers/{kind}", device)
    opened = DiffusersLoader(model_path=kind).run(ctx)
    assert opened.model.process.prediction == ("v_prediction" if kind == "sd21-v" else "epsilon")
    wanted = picture(single, ctx)
    assert torch.equal(picture(opened, ctx), wanted)
    CheckpointSave(model=opened.model, clip=opened.clip, vae=opened.vae, filename_prefix=f"checkpoints/{kind}").run(ctx)
    shutil.copy(ctx.artifacts[-1].path, home / f"models/checkpoints/folder-{kind}.safetensors")
    assert torch.equal(picture(CheckpointLoaderSimple(ckpt_name=f"folder-{kind}.safetensors").run(ctx), ctx), wanted)


def test_a_model_that_a_file_cannot_tell_is_not_written(ctx):
    opened = DiffusersLoader(model_path="tiny").run(ctx)
    with pytest.raises(NodeError, match="cannot be written as a single file"):
        CheckpointSave(model=opened.model, clip=opened.clip, vae=opened.vae).run(ctx)


def test_what_is_wrong_with_a_file_is_one_sentence(ctx, home, make):
    folder = home / "models/checkpoints"
    whole = (folder / "sd15.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(whole[:-100])
    (folder / "page.safetensors").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    (folder / "zip.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    tensors = make("sd15")
    for name in [name for name in tensors if ".attn1.to_" in name][:3]:
        del tensors[name]
    save_file(tensors, folder / "gone.safetensors")
    for name, said in (("short", "truncated"), ("page", "HTML page"), ("zip", "zip archive"), ("gone", "3 weights do not fit")):
        with pytest.raises(NodeError, match=said) as problem:
            CheckpointLoaderSimple(ckpt_name=f"{name}.safetensors").run(ctx)
        assert "\n" not in str(problem.value)
        assert str(problem.value).startswith("ckpt_name: ")


def test_a_pickled_checkpoint_only_when_allowed(ctx, home, make, monkeypatch):
    torch.save({"state_dict": make("sd15")}, home / "models/checkpoints/old.ckpt")
    with pytest.raises(NodeError, match="--allow-pickle"):
        CheckpointLoaderSimple(ckpt_name="old.ckpt").run(ctx)
    monkeypatch.setenv(ALLOW, "1")
    old = picture(CheckpointLoaderSimple(ckpt_name="old.ckpt").run(ctx), ctx)
    assert torch.equal(old, picture(CheckpointLoaderSimple(ckpt_name="sd15.safetensors").run(ctx), ctx))


def test_sdxl_prompts_of_two_lengths_and_sizes(ctx):
    clip = CheckpointLoaderSimple(ckpt_name="sdxl.safetensors").run(ctx).clip
    long = " ".join(["cat"] * 90)
    both = CLIPTextEncodeSDXL(clip=clip, text_g="a dog", text_l=long, width=640, height=512, crop_w=8, target_width=320).run(ctx)
    (entry,) = both
    assert entry.embeds.shape[1] == 154
    assert entry.size == Size(512, 640, 0, 8, 1024, 320)
    plain = CLIPTextEncode(clip=clip, text="a dog").run(ctx).entries[0]
    assert torch.allclose(entry.embeds[:, :77, 64:], plain.embeds[..., 64:], atol=1e-5)
    assert torch.allclose(entry.pooled, plain.pooled, atol=1e-5)
    empty = CLIPTextEncode(clip=clip, text="").run(ctx).entries[0]
    assert torch.allclose(entry.embeds[:, 77:, 64:], empty.embeds[..., 64:], atol=1e-5)
    (scored,) = CLIPTextEncodeSDXLRefiner(clip=clip, text="a dog", ascore=2.0).run(ctx)
    assert scored.size == Size(1024, 1024, aesthetic=2.0)


def test_learned_words_come_from_the_embeddings_folder(ctx, home):
    clip = CheckpointLoaderSimple(ckpt_name="sd15.safetensors").run(ctx).clip
    with ctx.device.weights(clip.weights) as encoder:
        rows = encoder.model.embeddings.token_embedding.weight[[id for id, _ in encoder.split("red cat")]].clone()
    (home / "models/embeddings/my").mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": rows}, home / "models/embeddings/my/word.safetensors")
    plain = CLIPTextEncode(clip=clip, text="a (red cat:1.2) dog").run(ctx).entries[0]
    for name in ("my/word", "my/word.safetensors", "my\\word"):
        learned = CLIPTextEncode(clip=clip, text=f"a (embedding:{name}:1.2) dog").run(ctx).entries[0]
        assert torch.equal(learned.embeds, plain.embeds)
    with pytest.warns(UserWarning, match="no embedding"):
        CLIPTextEncode(clip=clip, text="embedding:../../../secret").run(ctx)


def test_inpainting_models_see_the_erased_picture(ctx):
    model, clip, vae = CheckpointLoaderSimple(ckpt_name="sd15-inpaint.safetensors").run(ctx)
    positive, negative = (CLIPTextEncode(text=text, clip=clip).run(ctx) for text in ("a cat", ""))
    pixels = Image(torch.rand(1, 37, 34, 3, generator=torch.Generator().manual_seed(0)))
    mask = Mask(torch.zeros(1, 37, 34))
    mask.values[:, :16] = 1
    shown = InpaintModelConditioning(positive=positive, negative=negative, vae=vae, pixels=pixels, mask=mask).run(ctx)
    assert shown.latent.x.shape == (1, 4, 4, 4)
    assert shown.latent.noise_mask.shape == (1, 1, 32, 32)
    seen = shown.positive.entries[0]
    assert not torch.equal(seen.concat_latent, shown.latent.x)
    grey = Image(torch.where(torch.arange(37)[:, None, None] < 16, 0.5, pixels.pixels))
    other = InpaintModelConditioning(positive=positive, negative=negative, vae=vae, pixels=grey, mask=mask, noise_mask=False).run(ctx)
    assert torch.allclose(other.positive.entries[0].concat_latent, seen.concat_latent, atol=1e-5)
    assert other.latent.noise_mask is None
    told = sampled(model, shown.positive, shown.negative, vae, ctx, shown.latent)
    untold = sampled(model, positive, negative, vae, ctx, replace(shown.latent, noise_mask=None))
    assert torch.isfinite(told).all()
    assert not torch.equal(told, untold)


def test_instruct_pix2pix_sees_the_picture(ctx):
    model, clip, vae = CheckpointLoaderSimple(ckpt_name="sd15-ip2p.safetensors").run(ctx)
    positive, negative = (CLIPTextEncode(text=text, clip=clip).run(ctx) for text in ("a cat", ""))
    pixels = Image(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)))
    shown = InstructPixToPixConditioning(positive=positive, negative=negative, vae=vae, pixels=pixels).run(ctx)
    assert not shown.latent.x.any()
    seen = sampled(model, shown.positive, shown.negative, vae, ctx, shown.latent)
    unseen = sampled(model, positive, negative, vae, ctx, shown.latent)
    assert not torch.equal(seen, unseen)


def test_models_that_take_turns_leave_the_account_as_it_was(home):
    device = TorchDevice("cpu", budget=1)  # room for one network at a time, so each turn lets the other's go
    ctx = Context.silent(device, Folders(home))
    accounts = []
    for name in ("sd15", "sdxl") * 3:
        picture(CheckpointLoaderSimple(ckpt_name=f"{name}.safetensors").run(ctx), ctx)
        accounts.append(sorted(device.residents()))
    assert accounts[0] == accounts[2] == accounts[4] != accounts[1] == accounts[3] == accounts[5]
    assert all(held for held in accounts)
