"""The twenty rules by which a graph saved from ComfyUI gives the same picture here, one test each.

The numbers are the specification's, taken from ComfyUI 0.8.0 or computed apart from this code; whole latents of it are compared in
tests/workflows/test_sd1_reference.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file

from diffusion.batch import resolve
from diffusion.family import family
from diffusion.guidance import CFG, Conditional
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.noise import prepare_noise
from diffusion.patch import FeaturePatch, StepPatch
from diffusion.process import Process
from diffusion.session import open_session
from diffusion.spacing import advanced_range, sigmas_for
from diffusion.text import encode, open_text, parse, tokenize
from diffusion.values import Cond, Conditioning, Image, Latent, Mask, Model
from diffusion.weights import opened
from graph_engine.context import Context
from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.workflow import Link, Workflow
from nodes.conditioning import ConditioningAverage, ConditioningCombine, ConditioningSetArea, ConditioningSetTimestepRange
from nodes.control import ControlNetApplyAdvanced, ControlNetLoader
from nodes.custom_sampling import DisableNoise, SamplerCustomAdvanced
from nodes.guiders import BasicGuider
from nodes.image_files import LoadImage, LoadImageMask
from nodes.latent import EmptyLatentImage, SetLatentNoiseMask
from nodes.latent_batch import LatentBatchSeedBehavior, LatentFromBatch
from nodes.lora import LoraLoaderModelOnly
from nodes.model_sampling import ModelSamplingDiscrete
from nodes.sample import KSampler, KSamplerAdvanced
from nodes.samplers import KSamplerSelect
from nodes.save_image import SaveImage
from nodes.sigmas import BasicScheduler
from nodes.text import CLIPSetLastLayer, CLIPTextEncode
from nodes.vae import VAEEncode

TESTS = Path(__file__).parents[1]
SD1, SDXL = 0.18215, 0.13025  # latents are multiplied by it inside of the sampler
TABLE = Process().table()


def module(path: Path) -> ModuleType:
    name = f"{path.parent.name}_{path.stem}_of_laws"
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def device() -> TorchDevice:
    return TorchDevice("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws") / "tiny"
    module(TESTS / "diffusion" / "conftest.py").write_checkpoint(folder)
    return open_checkpoint(folder)


@pytest.fixture
def ctx(device, tmp_path) -> Context:
    folders = Folders(tmp_path)
    for kind in ("input", "loras", "controlnet"):
        folders.places(kind)[0].mkdir(parents=True)
    return Context.silent(device, folders)


@pytest.fixture(scope="module")
def model(checkpoint) -> Model:
    return checkpoint[0]


@pytest.fixture(scope="module")
def clip(checkpoint):
    return checkpoint[1]


@pytest.fixture(scope="module")
def red(clip, device) -> Conditioning:
    return encode(clip, "a red cat", device)


@pytest.fixture(scope="module")
def blue(clip, device) -> Conditioning:
    return encode(clip, "a blue dog", device)


@dataclass(frozen=True, slots=True, eq=False)
class Look(StepPatch, FeaturePatch):
    """Notes every level and state at which D is asked for, and how many rows the network is given."""

    levels: list[float] = field(default_factory=list)
    states: list[torch.Tensor] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def denoise(self, x, step, next):
        self.levels.append(step.sigma)
        self.states.append(x)
        return next(x, step)

    def residuals(self, call):
        self.rows.append(len(call.x))


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def denoised(model: Model, told: Conditioning, x: torch.Tensor, sigma: float, device: TorchDevice) -> torch.Tensor:
    with open_session(model, Conditional(told), device) as net:
        return net.denoise(x, sigma)


def near(values, wanted, within: float = 1e-4) -> bool:
    return torch.allclose(torch.as_tensor(values), torch.tensor(wanted), rtol=0, atol=within)


def test_1_noise_golden_values_and_the_batch_index_rule(ctx):
    drawn = prepare_noise((1, 4, 64, 64), 0)
    assert near(drawn[0, 0, 0, :4], [-1.1258398, -1.1523602, -0.2505786, -0.4338788], 1e-6)
    assert near([drawn.mean(), drawn.std()], [-0.0075752, 1.004208], 1e-6)
    assert near(prepare_noise((1, 4, 64, 64), 42)[0, 0, 0, :4], [1.9269153, 1.4872841, 0.9007172, -2.1055210], 1e-6)
    batch = EmptyLatentImage(width=64, height=64, batch_size=4).run(ctx)
    whole = prepare_noise(batch.x.shape, 5)
    third = LatentFromBatch(samples=batch, batch_index=2).run(ctx)
    assert torch.equal(prepare_noise(third.x.shape, 5, third.batch_index), whole[2:3])
    fixed = LatentBatchSeedBehavior(samples=LatentFromBatch(samples=batch, batch_index=1, length=3).run(ctx)).run(ctx)
    assert torch.equal(prepare_noise(fixed.x.shape, 5, fixed.batch_index), whole[1:2].expand(3, -1, -1, -1))


SPACINGS = {
    "simple": [14.6146, 8.3028, 5.0878, 3.3211, 2.2765, 1.6129, 1.1606, 0.8299, 0.5693, 0.3417, 0],
    "normal": [14.6146, 7.8399, 4.6092, 2.9183, 1.9502, 1.3449, 0.9324, 0.6250, 0.3687, 0.0292, 0],
    "sgm_uniform": [14.6146, 8.3072, 5.0924, 3.3251, 2.2797, 1.6156, 1.1629, 0.8319, 0.5712, 0.3437, 0],
    "ddim_uniform": [8.3907, 5.1344, 3.3478, 2.2929, 1.6237, 1.1682, 0.8357, 0.5741, 0.3462, 0.0413, 0],
    "karras": [14.6146, 9.1029, 5.4784, 3.1686, 1.7494, 0.9141, 0.4469, 0.2014, 0.0819, 0.0292, 0],
    "exponential": [14.6146, 7.3249, 3.6712, 1.84, 0.9222, 0.4622, 0.2317, 0.1161, 0.0582, 0.0292, 0],
    "beta": [14.6146, 11.5428, 7.3718, 4.3728, 2.6152, 1.6183, 1.0273, 0.6549, 0.3955, 0.1991, 0],
    "kl_optimal": [14.6147, 4.2324, 2.3937, 1.5971, 1.133, 0.8152, 0.5729, 0.3725, 0.1953, 0.0292, 0],
    "linear_quadratic": [14.6146, 14.5416, 14.4685, 14.3954, 14.3224, 14.2493, 13.6209, 11.8817, 9.0319, 5.0713, 0],
}


@pytest.mark.parametrize("name", SPACINGS)
def test_2_the_scheduler_table(name, ctx, model):
    assert near(BasicScheduler(model=model, scheduler=name, steps=10).run(ctx).values, SPACINGS[name])


@pytest.mark.parametrize("sampling", ["eps", "v_prediction"])
def test_3_the_first_level_is_scaled_by_the_root_of_one_plus_its_square(sampling, ctx, model, red):
    for denoise, factor in ((1.0, (1 + 14.6146**2) ** 0.5), (0.5, 1.6156)):  # sgm_uniform's 6th of 10 levels
        look = Look()
        told = ModelSamplingDiscrete(model=model.patched(look), sampling=sampling).run(ctx)
        KSampler(
            model=told, seed=3, steps=5, cfg=1.0, sampler_name="euler", scheduler="sgm_uniform", positive=red, negative=red,
            latent_image=Latent(torch.zeros(1, 4, 8, 8)), denoise=denoise,
        ).run(ctx)  # fmt: skip
        assert torch.allclose(look.states[0], prepare_noise((1, 4, 8, 8), 3) * factor, atol=1e-3)


def test_4_denoise_takes_the_end_of_a_list_of_int_steps_by_denoise(ctx, model):
    half = BasicScheduler(model=model, scheduler="karras", steps=10, denoise=0.5).run(ctx).values
    assert near(half, [1.0908, 0.7909, 0.5647, 0.3964, 0.2730, 0.1842, 0.1213, 0.0779, 0.0485, 0.0292, 0])
    most = BasicScheduler(model=model, scheduler="karras", steps=7, denoise=0.8).run(ctx).values
    assert torch.equal(most, sigmas_for(TABLE, "karras", 8)[-8:])  # 7 / 0.8 = 8.75
    assert len(BasicScheduler(model=model, scheduler="karras", steps=7, denoise=0.0).run(ctx).values) == 0


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"])
def test_5_dpm_2_and_uni_pc_leave_the_last_but_one_level_out(sampler, ctx, model, red):
    look = Look()
    KSampler(
        model=model.patched(look), steps=10, cfg=1.0, sampler_name=sampler, scheduler="normal", positive=red, negative=red,
        latent_image=Latent(torch.zeros(1, 4, 8, 8)),
    ).run(ctx)  # fmt: skip
    visited = torch.tensor(look.levels)
    golden = [14.6146, 8.3072, 5.0924, 3.3251, 2.2797, 1.6156, 1.1629, 0.8319, 0.5712, 0.3437]
    assert all((visited - level).abs().min() < 1e-4 for level in golden)
    assert visited.min() > 0.3
    assert near(BasicScheduler(model=model, scheduler="normal", steps=10).run(ctx).values, SPACINGS["normal"])


def test_6_leftover_noise_is_handed_on_and_otherwise_the_last_step_goes_to_zero(ctx, model, red, blue):
    golden = [14.6146, 10.7468, 8.0815, 6.2049, 4.8557, 3.8654, 3.1238, 2.5572, 2.1157, 1.7648, 1.4806]
    whole = sigmas_for(TABLE, "normal", 20)
    assert near(advanced_range(whole, 0, 10, True), golden)
    assert near(advanced_range(whole, 0, 10, False), [*golden[:-1], 0])
    assert torch.equal(advanced_range(whole, 10, 10000, False), whole[10:])

    def walk(latent, look=None, **more):
        return KSamplerAdvanced(
            model=model if look is None else model.patched(look), noise_seed=7, steps=6, cfg=3.0, sampler_name="euler", scheduler="normal",
            positive=red, negative=blue, latent_image=latent, **more,
        ).run(ctx)  # fmt: skip

    empty = Latent(torch.zeros(1, 4, 8, 8))
    first = walk(empty, end_at_step=3, return_with_leftover_noise="enable")
    assert torch.allclose(walk(first, add_noise="disable", start_at_step=3).x, walk(empty).x, atol=1e-3)
    look = Look()
    stopped = walk(empty, look, end_at_step=3)
    assert near(look.levels, sigmas_for(TABLE, "normal", 6)[:3].tolist())
    with open_session(model, CFG(red, blue, 3.0), ctx.device) as net:  # Euler's step to 0 is D itself
        assert torch.allclose(stopped.x * SD1, net.denoise(look.states[-1], look.levels[-1]), atol=1e-3)
    assert walk(first, start_at_step=6) is first


ORACLE = {
    "((red)) car": [("red", 1.21), (" car", 1)],
    "(red (big:0.5) car)": [("red ", 1.1), ("big", 0.5), (" car", 1.1)],
    "((red:1.5))": [("red", 1.5)],
    "(a:b) c": [("a:b", 1.1), (" c", 1)],
    "(red cat :1.2": [("(red cat :1.2", 1)],
    "(a:-1)": [("a", -1)],
    "(embedding:foo:1.2)": [("embedding:foo", 1.2)],
    r"\(red\) [car]": [("(red) [car]", 1)],
}


@pytest.mark.parametrize("prompt", ORACLE)
def test_7_the_prompt_parsers_oracle_list(prompt):
    assert parse(prompt) == [(text, pytest.approx(weight)) for text, weight in ORACLE[prompt]]


def test_8_weights_act_relative_to_the_empty_prompt_and_nothing_is_renormalised(ctx, clip, device):
    def states(text):
        return CLIPTextEncode(text=text, clip=clip).run(ctx).entries[0].embeds

    plain, empty, weighted = states("a red cat"), states(""), states("a (red:1.3) (cat:-0.5)")
    with open_text(clip, device) as encoder:
        assert tokenize(encoder, "a (red:1.3) (cat:-0.5)").weights[1:4] == (1, 1.3, -0.5)
    weights = torch.ones(plain.shape[1], 1)
    weights[2], weights[3] = 1.3, -0.5
    assert torch.allclose(weighted, empty + weights * (plain - empty), atol=1e-5)


def test_9_clip_skip_by_family(ctx, clip, device, tmp_path):
    tool = module(TESTS / "tools" / "make_checkpoint.py")
    save_file(tool.make("sdxl"), tmp_path / "sdxl.safetensors")
    _, pair, _ = open_checkpoint(tmp_path / "sdxl.safetensors")

    def states(which, stop):
        told = which if stop is None else CLIPSetLastLayer(clip=which, stop_at_clip_layer=stop).run(ctx)
        return CLIPTextEncode(text="a red cat", clip=told).run(ctx).entries[0]

    for which, normed, usual in ((clip, True, -1), (pair, False, -2)):
        with device.weights(which.weights) as part, torch.no_grad():
            tower = part.towers[0]
            hidden = tower.model(torch.tensor([tokenize(tower, "a red cat").ids]), output_hidden_states=True).hidden_states
            wanted = {stop: tower.model.final_layer_norm(hidden[stop]) if normed else hidden[stop] for stop in (-1, -2)}
        for stop in (None, -1, -2):
            assert torch.allclose(states(which, stop).embeds[..., : tower.width], wanted[stop or usual], atol=1e-4)
        assert torch.equal(states(which, -2).pooled, states(which, -1).pooled)  # always the last layer's


def test_10_combined_prompts_are_averaged_by_weight_and_areas_fade(ctx, model, red, blue, device):
    x = noise(1, 1, 4, 8, 8) * 3
    of_red, of_blue = (denoised(model, told, x, 3.0, device) for told in (red, blue))
    both = ConditioningCombine(conditioning_1=red, conditioning_2=blue.map(strength=3.0)).run(ctx)
    assert torch.allclose(denoised(model, both, x, 3.0, device), (of_red + 3 * of_blue) / 4, atol=1e-4)
    area = ConditioningSetArea(conditioning=red, width=256, height=64, x=64, y=0).run(ctx)
    (part,) = resolve({"positive": area}, TABLE, 32, 48)
    assert part.box == (8, 32, 0, 8)
    weight = part.weight(1, 32, 48, torch.device("cpu"))[0, 0]
    assert weight[0].tolist() == [i / 8 for i in range(1, 9)] + [1] * 16 + [i / 8 for i in range(8, 0, -1)]
    assert weight[:, 16].tolist() == [1] * 7 + [0.5]  # of 8 rows a quarter fades, and none on the border


def test_11_ranges_are_levels_of_the_training_table_not_step_numbers(ctx, model, red, blue, device):
    assert near([TABLE.percent_to_sigma(p) for p in (0.2, 0.5, 0.8)], [5.0924, 1.6156, 0.5712])
    assert (TABLE.percent_to_sigma(0), TABLE.percent_to_sigma(1)) == (999999999.9, 0)
    early = ConditioningSetTimestepRange(conditioning=red, start=0.0, end=0.5).run(ctx)
    late = ConditioningSetTimestepRange(conditioning=blue, start=0.5, end=0.8).run(ctx)
    told = ConditioningCombine(conditioning_1=early, conditioning_2=late).run(ctx)
    x = noise(2, 1, 4, 8, 8)
    for sigma, wanted in ((14.6, red), (1.62, red), (1.61, blue), (0.58, blue)):
        assert torch.equal(denoised(model, told, x, sigma, device), denoised(model, wanted, x, sigma, device))


def test_12_the_noise_mask_is_soft(ctx, model, red):
    latent, look = Latent(noise(4, 1, 4, 8, 8) * 4), Look()
    mask = torch.full((1, 64, 64), 0.25)
    mask[:, :32] = 0
    masked = SetLatentNoiseMask(samples=latent, mask=Mask(mask)).run(ctx)
    out = KSampler(
        model=model.patched(look), seed=3, steps=4, cfg=1.0, sampler_name="euler", scheduler="normal", positive=red, negative=red,
        latent_image=masked,
    ).run(ctx)  # fmt: skip
    start, drawn, sigma = latent.x * SD1, prepare_noise((1, 4, 8, 8), 3), look.levels[0]
    x = start + drawn * (1 + sigma**2) ** 0.5
    kept = start + drawn * sigma
    assert torch.allclose(look.states[0][:, :, 5:], (0.25 * x + 0.75 * kept)[:, :, 5:], atol=1e-4)
    assert torch.allclose(look.states[0][:, :, :3], kept[:, :, :3], atol=1e-4)
    assert torch.allclose(out.x[:, :, :3], latent.x[:, :, :3], atol=1e-4)


def test_13_latents_between_nodes_are_unscaled(ctx, model, checkpoint, red, device):
    assert (family("sd1").latent.scale, family("sdxl").latent.scale) == (SD1, SDXL)
    picture = Image(torch.rand(1, 35, 33, 3, generator=torch.Generator().manual_seed(0)))
    latent = VAEEncode(pixels=picture, vae=checkpoint[2]).run(ctx)
    with device.weights(checkpoint[2].weights) as vae, torch.no_grad():
        mode = vae.encode(picture.pixels[:, 1:33, :32].movedim(-1, 1) * 2 - 1).latent_dist.mode()
    assert torch.allclose(latent.x, mode, atol=1e-5)
    look = Look()
    levels = BasicScheduler(model=model, scheduler="normal", steps=4, denoise=0.5).run(ctx)
    out = SamplerCustomAdvanced(
        noise=DisableNoise().run(ctx), guider=BasicGuider(model=model.patched(look), conditioning=red).run(ctx),
        sampler=KSamplerSelect(sampler_name="euler").run(ctx), sigmas=levels, latent_image=latent,
    ).run(ctx)  # fmt: skip
    assert torch.allclose(look.states[0], latent.x * SD1, atol=1e-5)
    last = denoised(model, red, look.states[-1], look.levels[-1], device)
    assert torch.allclose(out.output.x, last / SD1, atol=1e-3)


def saved(id, type, values=(), inputs=(), outputs=(), mode=0):
    """A node as the editor saves it; inputs are (name, link), and one called steps is a widget that was turned into an input."""
    sockets = [{"name": name, "type": "*", "link": link} for name, link in inputs]
    for socket in sockets:
        if socket["name"] == "steps":
            socket["widget"] = {"name": "steps"}
    made = [{"name": kind, "type": kind, "links": []} for kind in outputs]
    return {"id": id, "type": type, "mode": mode, "inputs": sockets, "outputs": made, "widgets_values": list(values)}


def test_14_the_seeds_extra_value_reroutes_primitives_and_bypassed_nodes():
    nodes = [
        saved(1, "EmptyLatentImage", [64, 72, 3], outputs=["LATENT"]),
        saved(2, "Reroute", inputs=[("", 1)], outputs=["LATENT"]),
        saved(3, "LatentUpscaleBy", ["area", 2.0], [("samples", 2)], ["LATENT"], mode=4),
        saved(4, "PrimitiveNode", [9, "increment"], outputs=["INT"]),
        saved(
            5,
            "KSampler",
            [156680208700286, "randomize", 12, 7.5, "dpmpp_2m", "karras", 0.6],
            [("model", None), ("positive", None), ("negative", None), ("latent_image", 3), ("steps", 4)],
            ["LATENT"],
        ),
        saved(6, "SaveLatent", ["latents/x"], [("samples", 5)]),
        saved(7, "SaveLatent", ["latents/muted"], [("samples", None)], mode=2),
        saved(8, "Note", ["a note"]),
        saved(9, "MarkdownNote", ["a note"]),
        saved(10, "LoadImage", ["a.png", "image"], outputs=["IMAGE", "MASK"]),
    ]
    ends = [(1, 1, 2, 0), (2, 2, 3, 0), (3, 3, 5, 3), (4, 4, 5, 4), (5, 5, 6, 0)]
    links = [[id, source, 0, target, slot, "INT" if id == 4 else "LATENT"] for id, source, target, slot in ends]
    workflow = Workflow.from_json({"nodes": nodes, "links": links, "version": 0.4}, Registry.discover().specs)
    assert {id: entry.class_type for id, entry in workflow.nodes.items()} == {
        "1": "EmptyLatentImage",
        "5": "KSampler",
        "6": "SaveLatent",
        "10": "LoadImage",
    }
    assert workflow.nodes["1"].inputs == {"width": 64, "height": 72, "batch_size": 3}
    assert workflow.nodes["5"].inputs == {
        "seed": 156680208700286,
        "steps": 9,
        "cfg": 7.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 0.6,
        "latent_image": Link("1", 0),
    }
    assert workflow.nodes["10"].inputs["image"] == "a.png"


def test_15_masks_are_one_minus_alpha_or_64_by_64_zeros(ctx):
    levels = np.zeros((2, 3, 4), dtype=np.uint8)
    levels[0, 0] = (51, 102, 204, 51)
    folder = ctx.folders.places("input")[0]
    Picture.fromarray(levels).save(folder / "clear.png")
    Picture.fromarray(levels[..., :3]).save(folder / "opaque.png")
    clear, opaque = (LoadImage(image=name).run(ctx) for name in ("clear.png", "opaque.png"))
    assert near(clear.mask.values[0], [[0.8, 1, 1], [1, 1, 1]], 1e-6)
    assert near(clear.image.pixels[0, 0, 0], [0.2, 0.4, 0.8], 1e-6)
    assert torch.equal(opaque.mask.values, torch.zeros(1, 64, 64))
    assert near(LoadImageMask(image="clear.png", channel="alpha").run(ctx).values[0, 0], [0.8, 1, 1], 1e-6)
    assert near(LoadImageMask(image="clear.png", channel="red").run(ctx).values[0, 0], [0.2, 0, 0], 1e-6)
    assert torch.equal(LoadImageMask(image="opaque.png", channel="alpha").run(ctx).values, torch.zeros(1, 2, 3))


def test_16_pictures_are_truncated_to_8_bits_and_carry_their_graph(ctx, device):
    prompt, graph = {"1": {"class_type": "SaveImage", "inputs": {}}}, {"nodes": [], "version": 0.4}
    telling = Context.silent(device, ctx.folders, workflow=prompt, extra={"extra_pnginfo": {"workflow": graph}})
    pixels = torch.tensor([0.999, 0.5, 1.7, -0.2]).reshape(1, 1, 4, 1).expand(1, 2, 4, 3)
    for _ in range(2):
        SaveImage(images=Image(pixels), filename_prefix="sub/ComfyUI").run(telling)
    folder = ctx.folders.places("output")[0] / "sub"
    assert sorted(file.name for file in folder.iterdir()) == ["ComfyUI_00001_.png", "ComfyUI_00002_.png"]
    with Picture.open(folder / "ComfyUI_00001_.png") as picture:
        assert np.asarray(picture)[0, :, 0].tolist() == [254, 127, 255, 0]
        assert {name: json.loads(text) for name, text in picture.text.items()} == {"prompt": prompt, "workflow": graph}


def test_17_the_average_leans_to_the_conditioning_it_is_called_after(ctx):
    to = Conditioning((Cond(torch.full((1, 3, 2), 1.0), torch.full((1, 2), 10.0)),))
    frm = Conditioning((Cond(torch.full((1, 2, 2), 5.0), torch.full((1, 2), 20.0)), Cond(torch.zeros(1, 3, 2))))
    (mixed,) = ConditioningAverage(conditioning_to=to, conditioning_from=frm, conditioning_to_strength=0.75).run(ctx)
    assert mixed.embeds[0, :, 0].tolist() == [2.0, 2.0, 0.75]  # the shorter one is filled up with zeros
    assert mixed.pooled[0].tolist() == [12.5, 12.5]
    (whole,) = ConditioningAverage(conditioning_to=to, conditioning_from=frm).run(ctx)
    assert torch.equal(whole.embeds, to.entries[0].embeds)


@pytest.mark.parametrize(("alpha", "factor"), [(1.0, 0.25), (8.0, 2.0), (None, 1.0)])
def test_18_a_loras_alpha_is_divided_by_its_rank(alpha, factor, ctx, model, device):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    with device.weights(model.weights) as unet:
        before = unet.get_submodule(layer).weight.clone()
    up, down = noise(1, before.shape[0], 4), noise(2, 4, before.shape[1])
    name = f"lora_unet_{layer.replace('.', '_')}"
    tensors = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
    if alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, ctx.folders.places("loras")[0] / "x.safetensors")
    told = LoraLoaderModelOnly(model=model, lora_name="x.safetensors", strength_model=-0.5).run(ctx)
    with opened(told.weights, told.patches, device.weights) as unet:
        assert torch.allclose(unet.get_submodule(layer).weight, before - 0.5 * factor * (up @ down), atol=1e-5)


def test_19_the_controlnet_loader_opens_t2i_adapters(ctx, model, red, blue, device):
    from diffusers import T2IAdapter

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(T2IAdapter(3, [32, 64]).state_dict(), ctx.folders.places("controlnet")[0] / "t2iadapter.safetensors")
    net = ControlNetLoader(control_net_name="t2iadapter.safetensors").run(ctx)
    assert net.kind == "adapter"
    hint = Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    told, _ = ControlNetApplyAdvanced(positive=red, negative=blue, control_net=net, image=hint).run(ctx)
    none, _ = ControlNetApplyAdvanced(positive=red, negative=blue, control_net=net, image=hint, strength=0.0).run(ctx)
    x = noise(3, 1, 4, 8, 8)
    plain = denoised(model, red, x, 2.0, device)
    assert not torch.allclose(denoised(model, told, x, 2.0, device), plain, atol=1e-3)
    assert torch.equal(denoised(model, none, x, 2.0, device), plain)


@pytest.mark.parametrize(("cfg", "rows"), [(1.0, 1), (1.5, 2)])
def test_20_at_cfg_1_the_negative_is_not_evaluated(cfg, rows, ctx, model, red, blue):
    look = Look()
    KSampler(
        model=model.patched(look), steps=2, cfg=cfg, sampler_name="euler", scheduler="normal", positive=red, negative=blue,
        latent_image=Latent(torch.zeros(1, 4, 8, 8)),
    ).run(ctx)  # fmt: skip
    assert look.rows == [rows] * 2
