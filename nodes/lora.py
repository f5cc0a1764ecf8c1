"""LoRA and its relatives: loading, merging, and taking them out of the difference of two models."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, NamedTuple

import torch
from pydantic import Field
from safetensors.torch import save

from diffusion.lora.adapter import Lora
from diffusion.lora.apply import Fit, apply_lora
from diffusion.lora.file import read_lora
from diffusion.lora.merge import merge_sum, truncate
from diffusion.lora.write import extract, kohya_tensors
from diffusion.values import Clip, Model
from diffusion.weights import opened
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import FilenamePrefix, number

if TYPE_CHECKING:
    from torch import Tensor

    from graph_engine.context import Context

LoraFile = Annotated[
    str,
    File("loras"),
    Field(description="A safetensors file in the layout of kohya, diffusers, peft, LyCORIS or ComfyUI, or a folder that peft wrote."),
]
LoraStrength = Annotated[float, number(-100, 100, 0.01, "How much of the change to make: 0 is none, negative the opposite.")]
Rank = Annotated[int, number(1, 4096, 1, "At most so many factors for each weight.")]


class LoraLoader(Node, category="loaders", title="Load LoRA"):
    """A model and a text encoder with a LoRA file's changes of their weights; several in a row add up, in any order."""

    model: Model
    clip: Clip
    lora_name: LoraFile
    strength_model: LoraStrength = 1.0
    strength_clip: LoraStrength = 1.0

    class Out(NamedTuple):
        model: Model
        clip: Clip

    def run(self, ctx: Context) -> Out:
        if self.strength_model == 0 and self.strength_clip == 0:
            return self.Out(self.model, self.clip)
        lora = _read(ctx, self.lora_name)
        try:
            model, clip, fit = apply_lora(lora, self.model, self.clip, self.strength_model, self.strength_clip, ctx.device)
        except ValueError as problem:
            raise NodeError(f"lora_name: {problem}") from problem
        _tell(ctx, fit)
        assert model is not None
        assert clip is not None
        return self.Out(model, clip)


class LoraLoaderModelOnly(Node, category="loaders", title="Load LoRA (Model Only)"):
    """A model with a LoRA file's changes of its weights; what the file has for text encoders is left aside."""

    model: Model
    lora_name: LoraFile
    strength_model: LoraStrength = 1.0

    def run(self, ctx: Context) -> Model:
        if self.strength_model == 0:
            return self.model
        return _onto_model(ctx, self.model, _read(ctx, self.lora_name), self.strength_model, "lora_name")


class LoraModelLoader(Node, category="loaders", title="Apply LoRA to Model"):
    """A model with the changes of a LoRA that another node made or loaded."""

    model: Model
    lora: Lora
    strength_model: LoraStrength = 1.0

    def run(self, ctx: Context) -> Model:
        if self.strength_model == 0:
            return self.model
        return _onto_model(ctx, self.model, self.lora, self.strength_model, "lora")


class LoraLoadFile(Node, category="loaders", title="Load LoRA File"):
    """A LoRA file by itself, to merge or to apply later."""

    lora_name: LoraFile

    def run(self, ctx: Context) -> Lora:
        return _read(ctx, self.lora_name)


class LoraMerge(Node, category="advanced/lora", title="Merge LoRAs"):
    """One LoRA whose effect is the weighted sum of two.

    sum: exact, the ranks add up. svd: the nearest of at most `rank`, exact where the ranks together are not more.
    """

    lora_a: Lora
    lora_b: Lora
    weight_a: LoraStrength = 1.0
    weight_b: LoraStrength = 1.0
    mode: Annotated[Literal["sum", "svd"], Field(description="sum is exact and larger, svd cuts to the rank below.")] = "sum"
    rank: Rank = 8

    def run(self, ctx: Context) -> Lora:
        try:
            merged = merge_sum([(self.lora_a, self.weight_a), (self.lora_b, self.weight_b)], f"{self.lora_a.name} + {self.lora_b.name}")
            return truncate(merged, self.rank) if self.mode == "svd" else merged
        except ValueError as problem:
            raise NodeError(str(problem)) from problem


class SaveLoRA(Node, category="loaders", title="Save LoRA Weights", output=True):
    """Write a LoRA as a numbered safetensors file into the output folder, under kohya's names and with every alpha."""

    lora: Lora
    prefix: FilenamePrefix = "loras/ComfyUI_trained_lora"
    steps: Annotated[int, number(1, 10**9, 1, "Training steps, for the file's name.")] | None = None

    def run(self, ctx: Context) -> None:
        _save(ctx, self.prefix if self.steps is None else f"{self.prefix}_{self.steps}_steps", kohya_tensors(self.lora))


class LoraSave(Node, category="advanced/lora", title="Extract and Save LoRA", output=True):
    """Write the difference of two models (ModelMergeSubtract, CLIPMergeSubtract) as a LoRA of a given rank into the output folder."""

    filename_prefix: FilenamePrefix = "loras/ComfyUI_extracted_lora"
    rank: Rank = 8
    lora_type: Annotated[Literal["standard", "full_diff"], Field(description="standard: factors; full_diff: whole differences.")] = (
        "standard"
    )
    bias_diff: Annotated[bool, Field(description="Keep the differences of biases and norms too.")] = True
    model_diff: Annotated[Model | None, Field(description="The output of ModelMergeSubtract.")] = None
    text_encoder_diff: Annotated[Clip | None, Field(description="The output of CLIPMergeSubtract.")] = None

    def run(self, ctx: Context) -> None:
        given = [value for value in (self.model_diff, self.text_encoder_diff) if value is not None]
        if not given:
            raise NodeError("model_diff, text_encoder_diff: at least one is wanted, none given")
        tensors: dict[str, Tensor] = {}
        for i, value in enumerate(given):

            def step(k: int, n: int, done: int = i) -> None:
                ctx.step(done * n + k, len(given) * n)

            with opened(value.weights, value.patches, ctx.device.weights) as module, torch.no_grad():
                tensors |= extract(module, value.weights.part, self.rank, self.lora_type == "full_diff", self.bias_diff, step)
        if not tensors:
            raise NodeError("model_diff, text_encoder_diff: all differences are zero; there is nothing to save")
        _save(ctx, self.filename_prefix, tensors)


def _read(ctx: Context, name: str) -> Lora:
    try:
        return read_lora(ctx.path("loras", name))
    except ValueError as problem:
        raise NodeError(f"lora_name: {problem}") from problem


def _onto_model(ctx: Context, model: Model, lora: Lora, strength: float, field: str) -> Model:
    try:
        patched, _, fit = apply_lora(lora, model, None, strength, 0.0, ctx.device)
    except ValueError as problem:
        raise NodeError(f"{field}: {problem}") from problem
    _tell(ctx, fit)
    assert patched is not None
    return patched


def _tell(ctx: Context, fit: Fit) -> None:
    note = fit.note()
    if note is not None:
        warnings.warn(note, stacklevel=3)
        ctx.show(text=note)


def _save(ctx: Context, prefix: str, tensors: dict[str, Tensor]) -> None:
    def write(file: BinaryIO) -> None:
        file.write(save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))

    ctx.save(prefix, ".safetensors", write, media="application/octet-stream")
