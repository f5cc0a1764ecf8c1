"""Our KSampler beside diffusers' pipelines on the same weights, noise levels and number of evaluations: `python benchmarks/sampling.py`.

Each task runs with either in turn, within one process, and who goes first alternates; the tables give medians and the median of the
paired ratios, ours over diffusers' (below 1: we are faster). Timed is the call from prompt to latent: text encoding, and all steps with
guidance (two rows in one batch); nothing is decoded. Ours goes through the engine as the server's workers run it, with no result
kept, so that it applies a LoRA anew each time; diffusers' pipeline is loaded once. Where other work shares the machine the ratio of
processor time says more than that of wall time.

Load and memory are those of a new process for each side: load is from opened libraries to the first latent of one step, less a second
such call; peak is what a whole run takes at the most beyond the opened libraries. Last, one model is exchanged for another and back ten
times on a device whose budget holds one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import toybox
from diffusion.family.controlnet import Net
from diffusion.memory import open_device
from graph_engine import Engine, Folders, Graph, Registry

PROMPT = "a large red star on the left of a blue background"
TASKS = ("text to image", "image to image", "ControlNet", "LoRA")
PIPELINES = {
    "text to image": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "image to image": ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLImg2ImgPipeline"),
    "ControlNet": ("StableDiffusionControlNetPipeline", "StableDiffusionXLControlNetPipeline"),
    "LoRA": ("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
}
SIZES = {  # widths of the U-Net's levels, of the text, side of the picture
    "small": ((64, 128, 256, 256), (128,), 256),
    "medium": ((128, 256, 512, 512), (256,), 256),
    "full": ((320, 640, 1280, 1280), (768,), 512),
    "xl": ((64, 128, 256), (128, 256), 256),
    "xl-full": ((320, 640, 1280), (768, 1280), 1024),
}
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = torch.float16 if CUDA else torch.float32  # what ours takes where it is not told
Call = Callable[[int, int], torch.Tensor]  # seed, steps -> latent


@dataclass
class Setting:
    """One set of weights, as both load it."""

    name: str
    home: Path
    compile: bool = False  # the denoiser, by torch.compile

    @property
    def folder(self) -> Path:
        return toybox.WEIGHTS if self.name == "toybox" else self.home / "models" / "diffusers" / self.name

    @property
    def control(self) -> Path:
        return toybox.WEIGHTS / "control" / "edges" if self.name == "toybox" else self.home / "models" / "controlnet" / self.name

    @property
    def lora(self) -> Path:
        return self.home / "models" / "loras" / f"{self.name}.safetensors"

    @property
    def side(self) -> int:
        return SIZES[self.name][2] if self.name in SIZES else 128

    @property
    def xl(self) -> bool:
        return self.name.startswith("xl")


# -- weights --


def build(s: Setting) -> None:
    """A Stable Diffusion of reduced widths with random weights and the toybox's tokenizer, its ControlNet and a LoRA; in half precision."""
    if s.name == "twin":
        shutil.copytree(toybox.WEIGHTS, s.folder, ignore=shutil.ignore_patterns("control", "instruct", "probe*"))
    elif s.name != "toybox":
        widths, texts, _ = SIZES[s.name]
        torch.manual_seed(0)
        tokenizer = CLIPTokenizer.from_pretrained(toybox.WEIGHTS / "tokenizer")
        old = CLIPTextConfig.from_pretrained(toybox.WEIGHTS / "text_encoder").to_dict()
        configs = [
            CLIPTextConfig(**{**old, "hidden_size": w, "projection_dim": w, "intermediate_size": 4 * w, "num_hidden_layers": 12,
                              "num_attention_heads": w // 64}) for w in texts
        ]  # fmt: skip
        shape: dict[str, Any] = {
            "block_out_channels": widths,
            "cross_attention_dim": sum(texts),
            "attention_head_dim": 8,
            "sample_size": 64,
        }
        encoders: dict[str, Any] = {"text_encoder": CLIPTextModel(configs[0])}
        if s.xl:
            down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
            shape |= {
                "down_block_types": down, "up_block_types": tuple(kind.replace("Down", "Up") for kind in reversed(down)),
                "transformer_layers_per_block": (1, 2, 10) if "full" in s.name else (1, 2, 4), "use_linear_projection": True,
                "attention_head_dim": tuple(width // 64 for width in widths), "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 6 * 256 + texts[1],
            }  # fmt: skip
            encoders |= {"text_encoder_2": CLIPTextModelWithProjection(configs[1]), "tokenizer_2": tokenizer}
        else:
            encoders |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        unet = UNet2DConditionModel(**shape).half()
        vae = AutoencoderKL(
            block_out_channels=(32, 64, 64, 64), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4, scaling_factor=0.13025 if s.xl else 0.18215,
        )  # fmt: skip
        scheduler = EulerDiscreteScheduler.from_pretrained(toybox.WEIGHTS / "scheduler")
        whole = getattr(diffusers, PIPELINES["text to image"][s.xl])
        whole(unet=unet, vae=vae, tokenizer=tokenizer, scheduler=scheduler, **encoders).to(torch.float16).save_pretrained(s.folder)
        ControlNetModel.from_unet(unet).half().save_pretrained(s.control)
    write_lora(s)


def write_lora(s: Setting, rank: int = 8) -> None:
    """A random LoRA on all attention projections, under diffusers' names."""
    torch.manual_seed(1)
    tensors = {}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(json.loads((s.folder / "unet" / "config.json").read_text()))
    for name, layer in unet.named_modules():
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features) * 0.02
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank) * 0.02
    s.lora.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, s.lora)


# -- the two sides --


def ours(engine: Engine, s: Setting, task: str) -> Call:
    """A graph with one KSampler."""

    def call(seed: int, steps: int) -> torch.Tensor:
        g = Graph(engine.registry)
        loaded = g.CheckpointLoaderSimple(ckpt_name="toybox") if s.name == "toybox" else g.DiffusersLoader(model_path=s.name)
        model = loaded.model
        if task == "LoRA":
            model = g.LoraLoaderModelOnly(model=model, lora_name=s.lora.name, strength_model=1.0)
        if s.compile:
            model = g.TorchCompileModel(model=model)
        positive, negative = (g.CLIPTextEncode(text=text, clip=loaded.clip) for text in (PROMPT, ""))
        picture = g.EmptyImage(width=s.side, height=s.side, batch_size=1, color=0x808080)
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
            model=model, positive=positive, negative=negative, latent_image=latent, seed=seed, steps=steps, cfg=5.0,
            sampler_name="euler", scheduler="normal", denoise=0.5 if task == "image to image" else 1.0, _id="end",
        )  # fmt: skip
        result = engine.perform(g, wanted=["end"])
        result.raise_for_error()
        latent = result["end"].x
        engine.free(results=True)
        return latent

    return call


def theirs(s: Setting, task: str) -> Call:
    """A pipeline, with as many evaluations of the network."""
    parts: dict[str, Any] = (
        {"dtype": DTYPE, "add_watermarker": False} if s.xl else {"dtype": DTYPE, "safety_checker": None, "feature_extractor": None}
    )
    if task == "ControlNet":
        parts["controlnet"] = ControlNetModel.from_pretrained(s.control, dtype=DTYPE)
    pipe = getattr(diffusers, PIPELINES[task][s.xl]).from_pretrained(s.folder, **parts).to(DEVICE)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    if task == "LoRA":
        pipe.load_lora_weights(s.lora.parent, weight_name=s.lora.name)
    if s.compile:
        pipe.unet.compile(dynamic=False)
    picture = torch.full((1, 3, s.side, s.side), 0.5)

    @torch.no_grad()
    def call(seed: int, steps: int) -> torch.Tensor:
        given: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": "", "guidance_scale": 5.0, "output_type": "latent"}
        if task == "image to image":  # it runs the last half of its steps
            given |= {"image": picture, "strength": 0.5, "num_inference_steps": 2 * steps}
        else:
            given |= {"height": s.side, "width": s.side, "num_inference_steps": steps}
        if task == "ControlNet":
            given["image"] = picture
        latent: torch.Tensor = pipe(**given, generator=torch.Generator().manual_seed(seed)).images
        return latent

    return call


# -- measuring --


class Inside:
    """Processor time within the U-Net and the ControlNet, whoever runs them."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def watch(self, kind: Any, method: str) -> None:
        """Count all calls of a method."""
        plain = getattr(kind, method)

        @functools.wraps(plain)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            began = time.process_time()
            try:
                return plain(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds += time.process_time() - began

        setattr(kind, method, counted)


@dataclass
class Spent:
    """What one call took: seconds on the wall, of the processor, and of those outside of the networks."""

    wall: float
    cpu: float
    outside: float


def timed(call: Call, seed: int, steps: int, inside: Inside) -> Spent:
    gc.collect()
    inside.seconds = 0
    began, busy = time.perf_counter(), time.process_time()
    call(seed, steps)
    if CUDA:
        torch.cuda.synchronize()
    cpu = time.process_time() - busy
    return Spent(time.perf_counter() - began, cpu, cpu - inside.seconds)


def compared(engine: Engine, s: Setting, task: str, rounds: int, steps: int, inside: Inside) -> None:
    """One line of the first table."""
    calls = ours(engine, s, task), theirs(s, task)
    for call in calls:
        call(0, 1)
    pairs = []
    for seed in range(1, rounds + 1):
        turn = [0, 1] if seed % 2 else [1, 0]
        spent = {side: timed(calls[side], seed, steps, inside) for side in turn}
        pairs.append((spent[0], spent[1]))
    rates = [steps / statistics.median(pair[i].wall for pair in pairs) for i in (0, 1)]
    wall = statistics.median(a.wall / b.wall for a, b in pairs)
    cpu = statistics.median(a.cpu / b.cpu for a, b in pairs)
    outside = [1000 / steps * statistics.median(pair[i].outside for pair in pairs) for i in (0, 1)]
    line = f"{s.name:8} {task:15}{rates[0]:9.2f} |{rates[1]:7.2f}{wall:8.2f}"
    print(line if CUDA else f"{line}{cpu:8.2f}{outside[0]:11.1f} |{outside[1]:6.1f}", flush=True)


def resident(name: str = "VmRSS") -> float:
    """Megabytes of this process's memory; of an accelerator where there is one."""
    if CUDA:
        return (torch.cuda.max_memory_allocated() if name == "VmHWM" else torch.cuda.memory_allocated()) / 2**20
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(name))


@contextlib.contextmanager
def opened(s: Setting, side: str, task: str) -> Iterator[Call]:
    """A side ready to load."""
    if side == "theirs":
        made: list[Call] = []
        yield lambda seed, steps: (made or made.append(theirs(s, task)) or made)[0](seed, steps)  # type: ignore[func-returns-value]
        return
    with Engine(Registry.discover(), device=DEVICE, folders=Folders(s.home)) as engine:
        engine.device  # noqa: B018 - opened before the clock starts
        yield ours(engine, s, task)


def alone(s: Setting, side: str, task: str, steps: int) -> dict[str, float]:
    """Load and memory of one side, in this process, which does nothing else."""
    with opened(s, side, task) as call:
        gc.collect()
        start = resident()
        marks = [(time.perf_counter(), time.process_time())]
        for count in (1, 1, steps):
            call(0, count)
            marks.append((time.perf_counter(), time.process_time()))
        first, second = (tuple(b - a for a, b in zip(*marks[i : i + 2], strict=True)) for i in (0, 1))
        return {
            "wall": first[0] - second[0],
            "cpu": first[1] - second[1],
            "held": resident() - start,
            "peak": resident("VmHWM") - start,
        }


def told(s: Setting, task: str, steps: int) -> None:
    """One line of the second table."""
    found = []
    for side in ("ours", "theirs"):
        command = [
            sys.executable,
            __file__,
            "--alone",
            side,
            "--home",
            str(s.home),
            "--sizes",
            s.name,
            "--tasks",
            task,
            "--steps",
            str(steps),
            *(["--compile"] if s.compile else []),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    a, b = found
    columns = "".join(f"{a[key]:9.2f} |{b[key]:7.2f}" for key in ("wall", "cpu"))
    print(f"{s.name:8} {task:15}{columns}" + "".join(f"{a[key]:9.0f} |{b[key]:7.0f}" for key in ("peak", "held")), flush=True)


def exchanged(registry: Registry, first: Setting, second: Setting, times: int = 10) -> None:
    """Two models in turn; the device's account and what is resident after each return to the first."""
    with contextlib.ExitStack() as stack:

        def engine(budget: int | None) -> Engine:
            return stack.enter_context(Engine(registry, device=open_device(DEVICE, budget), folders=Folders(first.home), cache_bytes=0))

        sizes = []
        for s in (first, second):
            alone = engine(None)
            ours(alone, s, "text to image")(0, 1)
            sizes.append(sum(size for _, size in alone.memory()))
            alone.free(models=True, results=True)
        both = engine(max(sizes))
        seen: list[tuple[int, float]] = []
        for turn in range(times + 1):
            for s in (second, first):
                ours(both, s, "text to image")(turn, 1)
            gc.collect()
            seen.append((sum(size for _, size in both.memory()), resident()))
        accounts = sorted({account for account, _ in seen})
        mega = "account " + ", ".join(f"{account / 2**20:.1f}" for account in accounts) + " MB after each return"
        print(f"{first.name} -> {second.name} -> {first.name}, {times} times, a budget for one of them: {mega};")
        print("resident " + " ".join(f"{megabytes:.0f}" for _, megabytes in seen) + " MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the toybox alone, three rounds")
    parser.add_argument("--sizes", default="toybox,small,medium,xl", help=f"of toybox, {', '.join(SIZES)}")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="both denoisers by torch.compile")
    parser.add_argument("--alone", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    tasks = args.tasks.split(",")
    if args.alone:
        print(json.dumps(alone(Setting(args.sizes, args.home, args.compile), args.alone, args.tasks, args.steps)))
        return
    rounds, names = (3, ["toybox"]) if args.quick else (args.rounds, args.sizes.split(","))
    if importlib.util.find_spec("peft") is None and "LoRA" in tasks:
        print("LoRA is left out: diffusers needs peft for it (extra `train`)")
        tasks.remove("LoRA")
    inside = Inside()
    inside.watch(UNet2DConditionModel, "forward")
    inside.watch(ControlNetModel, "forward")
    inside.watch(Net, "see")
    inside.watch(Net, "steer")
    with tempfile.TemporaryDirectory() as folder:
        settings = [Setting(name, Path(folder), args.compile) for name in names]
        twin = Setting("twin", Path(folder))
        for s in (*settings, twin):
            build(s)
        threads = f"{torch.get_num_threads()} threads" if not CUDA else torch.cuda.get_device_name()
        print(f"{DEVICE}, {threads}, {str(DTYPE).removeprefix('torch.')}, {args.steps} steps, {rounds} rounds; ours | diffusers\n")
        print(f"{'weights':8} {'task':15}{'steps/s':>18}{'wall':>8}" + ("" if CUDA else f"{'cpu':>8}{'outside ms/step':>19}"))
        registry = Registry.discover()
        with Engine(registry, device=DEVICE, folders=Folders(Path(folder))) as engine:
            for s in settings:
                for task in tasks:
                    compared(engine, s, task, rounds, args.steps, inside)
                    engine.free(models=True, results=True)
        print(f"\n{'weights':8} {'task':15}{'load s':>18}{'of cpu':>18}{'peak MB':>18}{'held MB':>18}")
        for s in settings:
            for task in tasks[:1] if args.quick else tasks:
                told(s, task, args.steps)
        print()
        exchanged(registry, Setting("toybox", Path(folder)), twin)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
