"""Every layout of a ControlNet file gives the residuals that diffusers' own network gives for these weights."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.control.file import kind_of, open_control
from diffusion.control.names import config_of, renamed, shapes_of
from diffusion.control.patch import Control
from diffusion.family import controlnet as family
from diffusion.family import load
from diffusion.guidance import Conditional
from diffusion.session import open_session

ORIGINAL = [  # diffusers' names, and what the authors call them in a U-Net of two levels with one layer each
    (r"time_embedding\.linear_1", "time_embed.0"),
    (r"time_embedding\.linear_2", "time_embed.2"),
    (r"add_embedding\.linear_1", "label_emb.0.0"),
    (r"add_embedding\.linear_2", "label_emb.0.2"),
    (r"conv_in\.(weight|bias)$", r"input_blocks.0.0.\1"),
    (r"down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
    (r"down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
    (r"down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
    (r"down_blocks\.1\.resnets\.0", "input_blocks.3.0"),
    (r"down_blocks\.1\.attentions\.0", "input_blocks.3.1"),
    (r"mid_block\.resnets\.0", "middle_block.0"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.1", "middle_block.2"),
    (r"controlnet_mid_block", "middle_block_out.0"),
    (r"controlnet_down_blocks\.(\d)", r"zero_convs.\1.0"),
    (r"controlnet_cond_embedding\.conv_in", "input_hint_block.0"),
    (r"controlnet_cond_embedding\.conv_out", "input_hint_block.14"),
]
INSIDE = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original(name):
    if match := re.match(r"controlnet_cond_embedding\.blocks\.(\d)(.*)", name):
        return f"input_hint_block.{2 * int(match[1]) + 2}{match[2]}"
    for pattern, new in ORIGINAL:
        if re.match(pattern, name):
            name = re.sub("^" + pattern, new, name)
            break
    stem, _, kind = name.rpartition(".")
    for ours, theirs in INSIDE.items():
        if stem.endswith("." + ours) and "transformer" not in stem and re.match(r"(input_blocks\.\d+|middle_block)\.", stem):
            stem = stem.removesuffix(ours) + theirs
    return f"{stem}.{kind}"


@pytest.fixture(scope="module")
def weights(controlnet_folder):
    return load_file(controlnet_folder / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def asked():
    lot = torch.Generator().manual_seed(0)
    x, context, hint = (torch.randn(*shape, generator=lot) for shape in ((2, 4, 8, 8), (2, 12, 32), (2, 3, 64, 64)))
    return x, torch.tensor([400, 400]), context, hint


def test_a_folder_gives_what_diffusers_gives(controlnet_folder, controlnet, asked):
    from diffusers import ControlNetModel

    x, t, context, hint = asked
    with torch.no_grad():
        down, mid = load(controlnet.weights, torch.float32)(x, t, context, hint, {})
        theirs = ControlNetModel.from_pretrained(controlnet_folder)(x, t, context, hint, return_dict=False)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip((*down, mid), (*theirs[0], theirs[1]), strict=True))
    assert mid.abs().max() > 0.01


SDXL = {
    "cross_attention_dim": 2048,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FORMS = {
    "SD 1": {"cross_attention_dim": 768, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")},
    "SD 2": {"cross_attention_dim": 1024, "attention_head_dim": (1, 2), "use_linear_projection": True},
    "SDXL": {**SDXL, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "transformer_layers_per_block": (1, 2)},
    "SDXL mid": {**SDXL, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")},
    "SDXL small": {**SDXL, "down_block_types": ("DownBlock2D", "DownBlock2D"), "transformer_layers_per_block": (1, 0)},
    "SDXL small, plain middle": {**SDXL, "down_block_types": ("DownBlock2D", "DownBlock2D"), "mid_block_type": "UNetMidBlock2D"},
}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("form", FORMS)
def test_a_file_without_configuration_gives_what_diffusers_gives(form, layout, tmp_path):
    from diffusers import ControlNetModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        told = {"down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), **FORMS[form]}
        theirs = ControlNetModel(block_out_channels=(64, 128), layers_per_block=1, **told)
        for module in (*theirs.controlnet_down_blocks, theirs.controlnet_mid_block, theirs.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(module.weight, std=0.1)
    save_file({original(n) if layout == "original" else n: w for n, w in theirs.state_dict().items()}, tmp_path / "net.safetensors")
    ours = load(open_control(tmp_path / "net.safetensors").weights, torch.float32)
    lot = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 8, 8), (2, 7, told["cross_attention_dim"]), (2, 3, 64, 64), (2, 1280))
    x, context, hint, pooled = (torch.randn(*shape, generator=lot) for shape in shapes)
    t, added = torch.tensor([400, 900]), {"text_embeds": pooled, "time_ids": torch.rand(2, 6, generator=lot) * 1000}
    with torch.no_grad():
        down, mid = ours(x, t, context, hint, added if "addition_embed_type" in told else {})
        want = theirs(x, t, context, hint, added_cond_kwargs=added, return_dict=False)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip((*down, mid), (*want[0], want[1]), strict=True))
    assert mid.std() > 0.01


def test_a_folder_tells_that_residuals_are_pooled_and_colours_reversed(
    model, device, red, x, controlnet_folder, controlnet, picture, tmp_path
):
    shutil.copytree(controlnet_folder, tmp_path / "told")
    config = json.loads((tmp_path / "told" / "config.json").read_text())
    config |= {"global_pool_conditions": True, "controlnet_conditioning_channel_order": "bgr"}
    (tmp_path / "told" / "config.json").write_text(json.dumps(config))
    found = run(model, device, red, x, Control(open_control(tmp_path / "told"), picture))
    plain = run(model, device, red, x, Control(controlnet, picture.flip(-1)))
    assert torch.allclose(found, run(model, device, red, x, Control(replace(controlnet, pooled=True), picture.flip(-1))), atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_the_original_layout_is_read_with_and_without_its_prefix(weights):
    for prefix in ("", "control_model."):
        names = {prefix + original(name): name for name in weights}
        extra = ["model.diffusion_model.out.0.weight"] if prefix else []
        assert renamed([*names, *extra]) == names


def test_shapes_tell_the_architecture(controlnet_folder, weights):
    from diffusion.loading import read_json

    config, told = config_of(shapes_of(weights)), read_json(controlnet_folder / "config.json")
    for key in ("block_out_channels", "conditioning_embedding_out_channels", "down_block_types"):
        assert list(config[key]) == told[key]
    for key in ("in_channels", "layers_per_block", "cross_attention_dim", "use_linear_projection", "conditioning_channels"):
        assert config[key] == told[key]
    with pytest.raises(ValueError, match=r"no ControlNet: conv_in\.weight"):
        config_of({"a": (1,)})


@pytest.mark.parametrize(("width", "heads"), [(768, 8), (1024, (1, 2)), (2048, (1, 2))])
def test_text_width_tells_the_heads_and_sdxl_its_depths(width, heads):
    from diffusers import ControlNetModel

    more = {}
    if width == 2048:
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
        }
    else:
        more = {"down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D")}
    with torch.device("meta"):
        net = ControlNetModel(block_out_channels=(64, 128), layers_per_block=1, cross_attention_dim=width, **more)
    config = config_of(shapes_of(net.state_dict()))
    assert config["attention_head_dim"] == heads
    with torch.device("meta"):
        again = ControlNetModel.from_config(config)
    assert shapes_of(again.state_dict()) == shapes_of(net.state_dict())


def run(model, device, red, x, *patches):
    with open_session(model.patched(*patches), Conditional(red), device) as net:
        return net.denoise(x, 3.0)


def test_differences_and_products_add_up_to_the_whole(model, device, red, x, controlnet, weights, picture, tmp_path, folder):
    whole = run(model, device, red, x, Control(controlnet, picture))
    base = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    shared = {name for name in weights if name in base}
    moved = {name: torch.randn(w.shape, generator=torch.Generator().manual_seed(1)) * 0.01 for name, w in weights.items() if name in shared}
    # a whole ControlNet whose shared weights differ from the U-Net's
    full = {name: base[name] + moved[name] if name in shared else weight for name, weight in weights.items()}
    save_file(full, tmp_path / "full.safetensors")
    (tmp_path / "as_folder").mkdir()
    save_file(full, tmp_path / "as_folder" / "diffusion_pytorch_model.safetensors")
    config = Path(controlnet.weights.source) / "config.json"
    (tmp_path / "as_folder" / "config.json").write_bytes(config.read_bytes())
    want = run(model, device, red, x, Control(open_control(tmp_path / "as_folder"), picture))
    assert not torch.allclose(want, whole, atol=1e-4)

    difference = {original(name): moved[name] if name in shared else weight for name, weight in weights.items()}
    save_file(difference | {"difference": torch.ones(())}, tmp_path / "difference.safetensors")
    net = open_control(tmp_path / "difference.safetensors")
    assert net.kind == "difference"
    with pytest.raises(ValueError, match="DiffControlNetLoader"):
        run(model, device, red, x, Control(net, picture))
    for patched in (replace(net, base=model.weights), replace(net, base=replace(model.weights, fingerprint="another"))):
        assert torch.allclose(run(model, device, red, x, Control(patched, picture)), want, atol=1e-4)

    # Control-LoRA: matrices of full rank that make the same change
    product = {"lora_controlnet": torch.ones(())}
    for name, weight in weights.items():
        stem, _, kind = original(name).rpartition(".")
        if name in shared and kind == "weight" and weight.ndim > 1:
            product[f"{stem}.up"] = torch.eye(len(weight))
            product[f"{stem}.down"] = moved[name].flatten(1).contiguous()
        else:
            product[original(name)] = full[name]
    save_file(product, tmp_path / "lora.safetensors")
    net = open_control(tmp_path / "lora.safetensors")
    assert net.kind == "lora"
    assert torch.allclose(run(model, device, red, x, Control(net, picture)), want, atol=1e-4)


def test_a_union_gives_what_diffusers_gives(asked):
    from diffusers import ControlNetUnionModel

    torch.manual_seed(0)
    theirs = ControlNetUnionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 8, 16, 16),
        num_control_type=6,
        num_trans_channel=32,
        num_trans_head=8,
        num_proj_channel=32,
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=96,
    )
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tensors = theirs.state_dict()
    told = {"attention_head_dim": 4, "norm_num_groups": 8}
    ours = family.build(tensors, torch.float32, Path("union"), told)
    x, t, context, hints = asked
    hint = hints[:1].expand(2, -1, -1, -1)  # one for both samples: in diffusers' transformer samples attend to one another
    flags = torch.zeros(2, 6)
    flags[:, 3] = 1
    with torch.no_grad():
        want = theirs(x, t, context, [hint], flags, [3], return_dict=False)
        down, mid = ours(x, t, context, hint, {}, (3,))
        auto, _ = ours(x, t, context, hint, {})
        several = ours.see(hints, (3,))
        alone = torch.cat([ours.see(one[None], (3,)) for one in hints])
    assert all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip((*down, mid), (*want[0], want[1]), strict=True))
    assert not torch.allclose(auto[-1], down[-1], atol=1e-3)
    assert torch.allclose(several, alone, atol=1e-5)
    with pytest.raises(ValueError, match="this union knows 6 kinds"):
        ours(x, t, context, hint, {}, (7,))


def test_files_that_are_something_else_are_refused(tmp_path, weights):
    assert kind_of(weights) == "controlnet"
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"lora\.safetensors: a ControlNet or T2I-Adapter is wanted; this is a LoRA"):
        open_control(tmp_path / "lora.safetensors")
    (tmp_path / "page.safetensors").write_text("<html>404</html>" * 10)
    with pytest.raises(ValueError, match=r"page\.safetensors: this is an HTML page"):
        open_control(tmp_path / "page.safetensors")
    (tmp_path / "old.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"old\.pth: pickled files are not opened.*python -m diffusion\.convert old\.pth"):
        open_control(tmp_path / "old.pth")
    with pytest.raises(FileNotFoundError, match="nothing found"):
        open_control(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"block_out_channels": (32, 96)}, "ControlNet: its levels have 32, 96 channels, the model's 32, 64; use a ControlNet made for"),
        ({"cross_attention_dim": 48}, "ControlNet: it reads text of width 48, the model's has 32; use a ControlNet made for this"),
        ({"in_channels": 9}, "ControlNet: it reads latents of 9 channels, the model's have 4"),
        ({"conditioning_channels": 4}, "ControlNet: it reads hints of 4 channels, a picture has 3"),
        ({"conditioning_embedding_out_channels": (8, 8, 8)}, "ControlNet: its hint has 4 pixels to a latent cell, 8 are wanted"),
        ({"layers_per_block": 2}, "residuals: 4 for the skip connections are wanted, 6 given"),
    ],
)
def test_a_network_that_does_not_fit_the_model_is_told_in_one_sentence(
    told, reason, model, device, red, x, controlnet_folder, picture, tmp_path
):
    from diffusers import ControlNetModel

    from diffusion.loading import read_json

    ControlNetModel.from_config(read_json(controlnet_folder / "config.json") | told).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason) as problem:
        run(model, device, red, x, Control(open_control(tmp_path), picture))
    assert "\n" not in str(problem.value)


def test_a_file_that_lost_weights_or_its_end_is_told_in_one_sentence(weights, tmp_path):
    lost = {original(name): tensor for name, tensor in weights.items() if "time_embedding.linear_2" not in name}
    save_file(lost, tmp_path / "lost.safetensors")
    with pytest.raises(ValueError, match=r"2 weights do not fit ControlNetModel: time_embedding\.linear_2\.bias is missing") as problem:
        load(open_control(tmp_path / "lost.safetensors").weights, torch.float32)
    assert "\n" not in str(problem.value)
    whole = (tmp_path / "lost.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.safetensors: .*truncated"):
        open_control(tmp_path / "cut.safetensors")
