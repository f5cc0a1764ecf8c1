"""Our KSampler beside diffusers' pipelines on the same weights and schedule, in one run: `python benchmarks/sampling.py --quick`.

Each task runs in turn with either, and the table gives medians and the median of the paired ratios (ours over diffusers', below 1 is
faster). Timed is the call from prompt to latent: text encoding, all steps with guidance (two rows), no decoding. Ours runs through the
engine with an empty cache, as a user runs it. Peak is the most memory beyond what was in use before. Load is from files to the first
evaluation that is possible. Then one model is exchanged for another and back ten times.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)  # fmt: skip
from diffusers.utils import logging
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

import toybox
from graph_engine import Engine, Folders, Graph, Registry

PROMPT = "a large red star on the left of a blue background"
COLUMNS = ((10, 2), (10, 2), (8, 2), (10, 0), (10, 0), (10, 2), (10, 2))  # width and digits
TASKS = ("text to image", "image to image", "ControlNet", "LoRA")
SIZES = {  # widths of the U-Net's levels, text width, side of the picture
    "small": ((64, 128, 256, 256), 128, 256),
    "medium": ((128, 256, 512, 512), 256, 256),
    "full": ((320, 640, 1280, 1280), 768, 512),
}


@dataclass
class Setting:
    """One set of weights, as both load it."""

    name: str
    folder: Path
    side: int
    steps: int
    control: Path
    lora: Path
    device: str
    dtype: torch.dtype


def build(name: str, home: Path) -> Path:
    """A Stable Diffusion 1 with random weights and the toybox's tokenizer, as a diffusers folder; 0 is toybox itself."""
    widths, text, _ = SIZES[name]
    folder = home / "models" / "diffusers" / name
    torch.manual_seed(0)
    shipped = StableDiffusionPipeline.from_pretrained(toybox.WEIGHTS, safety_checker=None, feature_extractor=None)
    unet = UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=text, attention_head_dim=8)
    old = shipped.text_encoder.config.to_dict()
    encoder = CLIPTextModel(
        CLIPTextConfig(**{**old, "hidden_size": text, "intermediate_size": 4 * text, "num_hidden_layers": 12, "num_attention_heads": 8})
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=shipped.tokenizer, unet=unet, scheduler=shipped.scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    ControlNetModel.from_unet(unet).save_pretrained(home / "models" / "controlnet" / name)
    return folder


def write_lora(unet: UNet2DConditionModel, path: Path, rank: int = 8) -> None:
    """A random LoRA on all attention projections, under diffusers' names."""
    torch.manual_seed(1)
    tensors = {}
    for name, layer in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features) * 0.02
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank) * 0.02
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def ours(engine: Engine, registry: Registry, s: Setting, task: str) -> Callable[[int], torch.Tensor]:
    """A call from seed to latent."""

    def call(seed: int) -> torch.Tensor:
        g = Graph(registry)
        loaded = g.CheckpointLoaderSimple(ckpt_name="toybox") if s.name == "toybox" else g.DiffusersLoader(model_path=s.name)
        model, clip = loaded.model, loaded.clip
        if task == "LoRA":
            model = g.LoraLoaderModelOnly(model=model, lora_name=s.lora.name, strength_model=1.0)
        positive, negative = (g.CLIPTextEncode(text=text, clip=clip) for text in (PROMPT, ""))
        picture = g.EmptyImage(width=s.side, height=s.side, batch_size=1, color=0x4080C0)
        if task == "ControlNet":
            net = g.ControlNetLoader(control_net_name="toybox_edges" if s.name == "toybox" else s.name)
            both = g.ControlNetApplyAdvanced(
                positive=positive, negative=negative, control_net=net, image=picture, strength=1.0, start_percent=0.0, end_percent=1.0
            )
            positive, negative = both.positive, both.negative
        if task == "image to image":
            latent = g.VAEEncode(pixels=picture, vae=loaded.vae)
        else:
            latent = g.EmptyLatentImage(width=s.side, height=s.side, batch_size=1)
        g.KSampler(
            model=model, positive=positive, negative=negative, latent_image=latent, seed=seed, steps=s.steps, cfg=5.0,
            sampler_name="euler", scheduler="normal", denoise=0.5 if task == "image to image" else 1.0, _id="end",
        )  # fmt: skip
        result = engine.run(g, wanted=["end"])
        result.raise_for_error()
        latent = result["end"].x
        engine.free(results=True)
        return latent

    return call


def theirs(s: Setting, task: str) -> Callable[[int], torch.Tensor]:
    """The same through diffusers: as many evaluations of the network, the same scheduler."""
    kinds = {"ControlNet": StableDiffusionControlNetPipeline, "image to image": StableDiffusionImg2ImgPipeline}
    parts: dict[str, Any] = {"dtype": s.dtype, "safety_checker": None, "feature_extractor": None}
    if task == "ControlNet":
        parts["controlnet"] = ControlNetModel.from_pretrained(s.control, dtype=s.dtype)
    pipe = kinds.get(task, StableDiffusionPipeline).from_pretrained(s.folder, **parts).to(s.device)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    if task == "LoRA":
        pipe.load_lora_weights(s.lora.parent, weight_name=s.lora.name)
    picture = torch.full((1, 3, s.side, s.side), 0.5)
    given: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": "", "guidance_scale": 5.0, "output_type": "latent"}
    if task == "image to image":  # diffusers runs the last part of its steps
        given |= {"image": picture, "strength": 0.5, "num_inference_steps": 2 * s.steps}
    else:
        given |= {"height": s.side, "width": s.side, "num_inference_steps": s.steps}
    if task == "ControlNet":
        given["image"] = picture

    @torch.no_grad()
    def call(seed: int) -> torch.Tensor:
        latent: torch.Tensor = pipe(**given, generator=torch.Generator().manual_seed(seed)).images
        return latent

    return call


@contextlib.contextmanager
def peak() -> Iterator[Callable[[], float]]:
    """Megabytes beyond what was in use, at the most, so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        yield lambda: (torch.cuda.max_memory_allocated() - start) / 2**20
        return
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        yield lambda: float("nan")
        return
    start = resident("VmRSS")
    yield lambda: resident("VmHWM") - start


def resident(name: str = "VmRSS") -> float:
    """Megabytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def timed(call: Callable[[int], torch.Tensor], seed: int) -> tuple[float, float]:
    with peak() as most:
        began = time.perf_counter()
        call(seed)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began, most()


def compared(engine: Engine, registry: Registry, s: Setting, task: str, rounds: int) -> None:
    """One line of the table."""
    mine = ours(engine, registry, s, task)
    began = time.perf_counter()
    other = theirs(s, task)
    their_load = time.perf_counter() - began
    engine.free(models=True, results=True)
    began = time.perf_counter()
    mine(0)
    first = time.perf_counter() - began
    other(0)
    pairs = [(timed(mine, seed), timed(other, seed)) for seed in range(1, rounds + 1)]
    seconds = [[pair[i][0] for pair in pairs] for i in (0, 1)]
    ratio = statistics.median(a / b for a, b in zip(*seconds, strict=True))
    load = first - statistics.median(seconds[0])
    rates = [s.steps / statistics.median(each) for each in seconds]
    peaks = [statistics.median(pair[i][1] for pair in pairs) for i in (0, 1)]
    row = (*rates, ratio, *peaks, max(load, 0), their_load)
    print(
        f"{s.name:8} {task:15}" + "".join(f"{value:{width}.{digits}f}" for value, (width, digits) in zip(row, COLUMNS, strict=True)),
        flush=True,
    )


def exchanged(engine: Engine, registry: Registry, names: list[str], times: int = 10) -> None:
    """Two models in turn; what is resident after the first return and after the last."""
    seen = []
    for turn in range(times + 1):
        for name in names:
            g = Graph(registry)
            loaded = g.CheckpointLoaderSimple(ckpt_name="toybox") if name == "toybox" else g.DiffusersLoader(model_path=name)
            text = g.CLIPTextEncode(text=PROMPT, clip=loaded.clip)
            canvas = g.EmptyLatentImage(width=128, height=128, batch_size=1)
            g.KSampler(model=loaded.model, positive=text, negative=text, latent_image=canvas, seed=turn, steps=1, cfg=1.0,
                       sampler_name="euler", scheduler="normal", denoise=1.0, _id="end")  # fmt: skip
            engine.run(g, wanted=["end"]).raise_for_error()
            engine.free(models=True, results=True)
        gc.collect()
        seen.append(resident())
    print(f"exchange of {' and '.join(names)}, {times} times: resident {seen[0]:.0f} MB after the first, {seen[-1]:.0f} MB after the last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the toybox alone, three rounds")
    parser.add_argument("--sizes", default="toybox,small,medium", help=f"of toybox, {', '.join(SIZES)}")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.float32
    sizes = ["toybox"] if args.quick else args.sizes.split(",")
    registry = Registry.discover()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in sizes:
            if name != "toybox":
                build(name, home)
        print(f"{device}, {torch.get_num_threads()} threads, {args.steps} steps, ours | diffusers")
        print(f"{'weights':8} {'task':15}{'steps/s':>10}{'':10}{'ratio':>8}{'peak MB':>10}{'':10}{'load s':>10}")
        with Engine(registry, device=device, folders=Folders(home)) as engine:
            for name in sizes:
                base = toybox.WEIGHTS if name == "toybox" else home / "models" / "diffusers" / name
                control = toybox.WEIGHTS / "control" / "edges" if name == "toybox" else home / "models" / "controlnet" / name
                side = 128 if name == "toybox" else SIZES[name][2]
                lora = home / "models" / "loras" / f"{name}.safetensors"
                config = json.loads((base / "unet" / "config.json").read_text())
                write_lora(UNet2DConditionModel.from_config(config), lora)
                setting = Setting(name, base, side, args.steps, control, lora, device, dtype)
                for task in args.tasks.split(","):
                    if task == "LoRA" and importlib.util.find_spec("peft") is None:
                        print(f"{name:8} {task:15}  diffusers needs peft for this (extra `train`)")
                        continue
                    compared(engine, registry, setting, task, 3 if args.quick else args.rounds)
            if len(sizes) > 1:
                exchanged(engine, registry, sizes[:2])


if __name__ == "__main__":
    main()
