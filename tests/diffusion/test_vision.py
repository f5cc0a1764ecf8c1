"""Picture encoders from single files against transformers' own on the same weights; what they are shown."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusion.family.vision import Structure, measured
from diffusion.vision import MEAN, STD, look, look_at_nothing, open_vision, prepared

SIDE = 28


@pytest.fixture(scope="session")
def tool():
    path = Path(__file__).parents[1] / "tools" / "make_ip_adapter.py"
    spec = importlib.util.spec_from_file_location("make_ip_adapter", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_ip_adapter"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def weights(tool):
    return {layout: tool.vision(layout, 128, 48, side=SIDE) for layout in ("hf", "openai")}


@pytest.fixture(scope="session")
def file_of(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip_vision")
    for layout, tensors in weights.items():
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{layout}.safetensors")
    return lambda layout: folder / f"{layout}.safetensors"


@pytest.fixture(scope="session")
def pixels():
    return torch.rand(3, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", ["hf", "openai"])
def test_it_says_what_transformers_says_with_the_same_weights(file_of, weights, pixels, device, layout):
    vision = open_vision(file_of(layout))
    assert (vision.name, vision.width, vision.embeds) == ("a ViT of width 128", 128, 48)
    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, projection_dim=48, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    other = CLIPVisionModelWithProjection(config).eval()
    other.load_state_dict(weights["hf"])
    seen = look(vision, pixels, device)
    with torch.no_grad():
        wanted = other(prepared(pixels, SIDE), output_hidden_states=True)
        nothing = other(torch.zeros(1, 3, SIDE, SIDE), output_hidden_states=True)
    torch.testing.assert_close(seen.embeds, wanted.image_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.penultimate, wanted.hidden_states[-2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(seen.last, wanted.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(look_at_nothing(vision, device).penultimate, nothing.hidden_states[-2], rtol=1e-5, atol=1e-5)


def test_whole_clip_files_are_read_in_part(weights, pixels, device, tmp_path, file_of):
    wanted = look(open_vision(file_of("hf")), pixels, device).embeds
    others = {"text_model.embeddings.token_embedding.weight": torch.ones(4, 4), "logit_scale": torch.ones(())}
    ids = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    save_file({**weights["hf"], **others, **ids}, tmp_path / "hf.safetensors")
    inner = {f"embedder.model.{name}": tensor for name, tensor in weights["openai"].items()}
    text = {"embedder.model.transformer.resblocks.0.ln_1.weight": torch.ones(4), "embedder.model.text_projection": torch.ones(4, 4)}
    save_file({**inner, **text}, tmp_path / "openai.safetensors")
    for name in ("hf", "openai"):
        assert torch.equal(look(open_vision(tmp_path / f"{name}.safetensors"), pixels, device).embeds, wanted), name


@pytest.mark.parametrize(
    ("width", "layers", "inner", "embeds", "name", "act"),
    [
        (1024, 24, 4096, 768, "ViT-L/14", "quick_gelu"),
        (1280, 32, 5120, 1024, "ViT-H/14", "gelu"),
        (1664, 48, 8192, 1280, "ViT-bigG/14", "gelu"),
    ],
)
def test_the_encoders_in_use_are_told_by_their_shapes(width, layers, inner, embeds, name, act):
    body = "vision_model."
    shapes = {
        f"{body}embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{body}embeddings.position_embedding.weight": (257, width),
        "visual_projection.weight": (embeds, width),
        **{f"{body}encoder.layers.{i}.mlp.fc1.weight": (inner, width) for i in range(layers)},
    }
    found = measured(shapes, Path("x"))
    assert found == Structure(name, width, layers, inner, embeds, 14, 224)
    assert (found.config().hidden_act, found.config().num_attention_heads) == (act, 16)


def test_what_is_no_encoder_or_not_whole_is_refused(weights, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="a CLIP picture encoder is wanted, nothing found"):
        open_vision(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"a CLIP picture encoder is wanted .*; it has a U-Net"):
        open_vision(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for layout, gone, message in (
        ("hf", "visual_projection.weight", "visual_projection.weight is missing"),
        ("hf", "vision_model.encoder.layers.1.self_attn.k_proj.bias", r"layers\.1\.self_attn\.k_proj\.bias is missing"),
        ("openai", "visual.ln_post.bias", r"post_layernorm\.bias is missing"),
    ):
        rest = {name: tensor.contiguous() for name, tensor in weights[layout].items() if name != gone}
        save_file(rest, tmp_path / "part.safetensors")
        with pytest.raises(ValueError, match=message):
            open_vision(tmp_path / "part.safetensors")


def test_a_square_of_the_right_size_is_only_normalised(pixels):
    x = (pixels.movedim(-1, 1) * 255).round() / 255
    wanted = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for crop in ("center", "none"):
        torch.testing.assert_close(prepared(pixels, SIDE, crop), wanted)
    assert torch.equal(prepared(torch.cat([pixels, pixels[..., :1]], -1), SIDE), prepared(pixels, SIDE))  # alpha is not looked at


@pytest.mark.parametrize("size", [(300, 500), (450, 300)])
def test_it_is_what_openais_own_processing_shows(size):
    picture = Picture.fromarray((np.random.default_rng(0).random((6, 6, 3)) * 255).astype("uint8")).resize(size[::-1], Picture.BICUBIC)
    wanted = torch.tensor(np.stack(CLIPImageProcessor()(picture)["pixel_values"]))
    got = prepared(torch.tensor(np.asarray(picture))[None] / 255, 224)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().mean() < 0.01
    assert (got - wanted).abs().max() < 0.08  # both round to 8 bits, at different places


def test_center_leaves_out_what_none_squashes():
    x = torch.zeros(1, 50, 100, 3)
    x[:, :, :24, 0] = x[:, :, 76:, 0] = 1  # red at both ends
    red = [(prepared(x, 20, crop)[0, 0] * STD[0] + MEAN[0]) > 0.5 for crop in ("center", "none")]
    assert not red[0].any()
    assert red[1].float().mean() == pytest.approx(0.48, abs=0.05)
    assert prepared(x.movedim(1, 2), 20, "none").shape == (1, 3, 20, 20)
