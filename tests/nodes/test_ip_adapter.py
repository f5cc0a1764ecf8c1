import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion.guidance import CFG
from diffusion.ip_adapter.embed import tokens
from diffusion.ip_adapter.weighting import WEIGHT_TYPES
from diffusion.session import open_session
from diffusion.values import Image, Mask
from diffusion.vision import look, look_at_nothing
from graph_engine import Engine, NodeError, Registry, Workflow
from nodes.clip_vision import CLIPVisionLoader
from nodes.ip_adapter import IPAdapterAdvanced, IPAdapterModelLoader, IPAdapterSimple, IPAdapterStyleComposition

SIGMA = 2.5
PICTURES = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).parents[1] / "tools" / "make_ip_adapter.py"
    spec = importlib.util.spec_from_file_location("make_ip_adapter", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_ip_adapter"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def load(ctx, folders, tool, tiny_folder):
    widths = tool.widths_in(tiny_folder / "unet")
    for kind, tensors in {
        "ipadapter/plain": tool.make("plain", *widths, 24),
        "ipadapter/plus": tool.make("plus", *widths, 64),
        "ipadapter/wrong": tool.make("plain", *widths, 25),
        "ipadapter/faceid": tool.make("faceid", *widths, 24),
        "clip_vision/small": tool.vision("openai", 64, 24, layers=2, side=28),
    }.items():
        path = folders.base / "models" / f"{kind}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)

    def of(name):
        if name == "small":
            return CLIPVisionLoader(clip_name="small.safetensors").run(ctx)
        return IPAdapterModelLoader(ipadapter_file=f"{name}.safetensors").run(ctx)

    return of


@pytest.fixture
def predict(red, blue, device):
    def run(model):
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * SIGMA
        with open_session(model, CFG(red, blue, 3.0), device) as net, torch.no_grad():
            return net.denoise_all(x, SIGMA)[1]

    return run


def patch_of(ctx, load, model, kind="plain", **inputs):
    given = {"model": model, "ipadapter": load(kind), "image": Image(PICTURES[:1]), "clip_vision": load("small"), **inputs}
    (patch,) = IPAdapterAdvanced(**given).run(ctx).patches
    return patch


def test_what_the_nodes_hand_to_the_patch(ctx, load, model, device):
    vision, seen = load("small"), look(load("small"), PICTURES[:2], device)
    patch = patch_of(
        ctx, load, model, image=Image(PICTURES[:2]), weight=0.4, weight_type="ease in", start_at=0.1, end_at=0.7, embeds_scaling="K+V",
        attn_mask=Mask(torch.ones(1, 8, 8)),
    )  # fmt: skip
    assert (patch.weight, patch.kind, patch.start, patch.end, patch.scaling) == (0.4, "ease in", 0.1, 0.7, "K+V")
    assert patch.mask.shape == (1, 8, 8)
    assert torch.equal(patch.positive, tokens(load("plain"), seen.embeds, device))
    assert torch.equal(patch.negative, tokens(load("plain"), torch.zeros(1, 24), device))
    plus = patch_of(ctx, load, model, "plus", image=Image(PICTURES[:2]), combine_embeds="average")
    assert torch.equal(plus.positive, tokens(load("plus"), seen.penultimate.mean(0, keepdim=True), device))
    assert torch.equal(plus.negative, tokens(load("plus"), look_at_nothing(vision, device).penultimate, device))
    against = patch_of(ctx, load, model, image_negative=Image(PICTURES[2:3]))
    assert torch.equal(against.negative, tokens(load("plain"), look(vision, PICTURES[2:3], device).embeds, device))


def test_the_picture_tells_both_branches_apart(ctx, load, model, predict):
    plain = predict(model)
    one, other = (predict(model.patched(patch_of(ctx, load, model, image=Image(PICTURES[i : i + 1])))) for i in (0, 1))
    assert (one["positive"] - other["positive"]).abs().max() > 1e-3
    assert torch.equal(one["negative"], other["negative"])  # told that there is no picture
    assert (one["negative"] - plain["negative"]).abs().max() > 1e-3


def test_the_widgets_stand_in_the_order_of_saved_graphs():
    spec = IPAdapterAdvanced.spec
    widgets = ["weight", "weight_type", "combine_embeds", "start_at", "end_at", "embeds_scaling"]
    assert [entry.name for entry in spec.inputs if entry.name in widgets] == widgets
    assert spec.input("weight_type").choices == WEIGHT_TYPES
    assert [spec.input(name).default for name in widgets] == [1.0, "linear", "concat", 0.0, 1.0, "V only"]


def test_weight_0_gives_the_model_itself_even_without_an_encoder(ctx, load, model):
    assert IPAdapterAdvanced(model=model, ipadapter=load("plain"), image=Image(PICTURES), weight=0).run(ctx) is model
    assert IPAdapterSimple(model=model, ipadapter=load("plain"), image=Image(PICTURES), weight=0).run(ctx) is model


def test_the_simple_node_is_the_other_with_three_of_its_kinds(ctx, load, model):
    kinds = {}
    for kind in ("standard", "prompt is more important", "style transfer"):
        node = IPAdapterSimple(
            model=model, ipadapter=load("plain"), image=Image(PICTURES), weight_type=kind, clip_vision=load("small"), end_at=0.5
        )
        (patch,) = node.run(ctx).patches
        kinds[kind] = patch.kind
        assert patch.end == 0.5
    assert kinds == {"standard": "linear", "prompt is more important": "ease out", "style transfer": "style transfer"}


def test_style_of_one_picture_and_composition_of_another(ctx, load, model, predict):
    def run(style, composition, **more):
        return predict(
            IPAdapterStyleComposition(
                model=model, ipadapter=load("plain"), image_style=Image(PICTURES[style : style + 1]), clip_vision=load("small"),
                image_composition=Image(PICTURES[composition : composition + 1]), **more,
            ).run(ctx)
        )["positive"]  # fmt: skip

    both = run(0, 1)
    style = patch_of(ctx, load, model, weight_type="style transfer")
    composition = patch_of(ctx, load, model, image=Image(PICTURES[1:2]), weight_type="composition")
    assert torch.equal(both, predict(model.patched(style, composition))["positive"])
    assert (both - run(1, 0)).abs().max() > 1e-4
    assert torch.equal(run(0, 1, weight_composition=0), predict(model.patched(style))["positive"])
    assert (both - run(0, 1, expand_style=True)).abs().max() > 1e-5


def test_mistakes_are_named(ctx, load, model):
    with pytest.raises(NodeError, match="clip_vision: an encoder is wanted, none given; connect Load CLIP Vision"):
        IPAdapterAdvanced(model=model, ipadapter=load("plain"), image=Image(PICTURES)).run(ctx)
    with pytest.raises(NodeError, match=r"clip_vision: this IP-Adapter reads embeddings of width 25, the encoder gives 24"):
        patch_of(ctx, load, model, "wrong")
    with pytest.raises(NodeError, match=r"ipadapter_file: faceid\.safetensors: this is a FaceID IP-Adapter"):
        load("faceid")


def test_a_graph_runs_through_the_engine(load, folders, device):
    def graph(weight):
        return {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny"}},
            "2": {"class_type": "IPAdapterModelLoader", "inputs": {"ipadapter_file": "plus.safetensors"}},
            "3": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "small.safetensors"}},
            "4": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 40, "batch_size": 2, "color": 0xFF8000}},
            "5": {
                "class_type": "IPAdapterAdvanced",
                "inputs": {
                    "model": ["1", 0], "ipadapter": ["2", 0], "image": ["4", 0], "clip_vision": ["3", 0], "weight": weight,
                    "weight_type": "style transfer precise", "combine_embeds": "norm average", "start_at": 0.0, "end_at": 0.8,
                    "embeds_scaling": "K+mean(V) w/ C penalty",
                },
            },
            "6": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a red cat"}},
            "7": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
            "8": {
                "class_type": "KSampler",
                "inputs": {
                    "model": ["5", 0], "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["7", 0], "seed": 1, "steps": 3,
                    "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
                },
            },
        }  # fmt: skip

    latents = []
    registry = Registry.discover()
    with Engine(registry, device=device, folders=folders, debug=True) as engine:
        for weight in (1.0, 0.0, 1.0):
            result = engine.run(Workflow.from_json(graph(weight), registry.specs, folders), wanted=["8"])
            assert result.status == "success", result.failures
            (latent,) = result.values("8").values()
            latents.append(latent.x)
    assert torch.equal(latents[0], latents[2])
    assert (latents[0] - latents[1]).abs().max() > 1e-4
