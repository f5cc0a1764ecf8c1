"""Adapters as named tensors to save: kohya's names for what was read, the original code's names for what is taken out of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from diffusion.lora.adapter import Lora
from diffusion.lora.ldm import ldm_names
from diffusion.lora.merge import low_rank
from diffusion.lora.names import modules_of, towers

_ENDS = {"up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight"}
_ENCODERS = {"te1": "clip_l", "te2": "clip_g"}


def kohya_tensors(lora: Lora) -> dict[str, Tensor]:
    """The adapter under kohya's names: lora_unet_…, and lora_te_… or, with two text encoders, lora_te1_… and lora_te2_…."""
    two = any(module.part == "te2" for module in lora.modules)
    starts = {"unet": "lora_unet_", "te1": "lora_te1_" if two else "lora_te_", "te2": "lora_te2_", "": "lycoris_"}
    tensors = {}
    for module in lora.modules:
        inner = "text_model_" if module.part.startswith("te") and module.path != "text_projection" else ""
        name = f"{starts[module.part]}{inner}{module.path}"
        for field, tensor in module.tensors:
            tensors[f"{name}.{_ENDS.get(field, field)}"] = tensor.contiguous()
        if module.alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(module.alpha)
    return tensors


def extract(
    module: nn.Module, part: str, rank: int, full: bool, biases: bool, step: Callable[[int, int], None] = lambda i, n: None
) -> dict[str, Tensor]:
    """The parameters of a network, which are to be read as differences, as an adapter under the names of the original code.

    Matrices and convolutions as factors of at most this rank, or with `full` whole; vectors only with `biases`. What is zero is left
    out. `part` is that of the WeightsRef; `step` is told how many parameters are done.
    """
    parameters = dict(module.named_parameters())
    names = dict(_names(part, parameters))
    tensors: dict[str, Tensor] = {}
    for i, (name, parameter) in enumerate(parameters.items()):
        owner, _, end = name.rpartition(".")
        delta = parameter.detach().float()
        if owner in names and end in ("weight", "bias") and delta.any() and (biases or delta.ndim > 1):
            base = names[owner]
            if end == "bias":
                tensors[f"{base}.diff_b"] = delta.cpu()
            elif full or delta.ndim < 2 or owner.endswith("embedding"):
                tensors[f"{base}.diff"] = delta.cpu()
            else:
                up, down = low_rank(delta, rank)
                tensors[f"{base}.lora_up.weight"], tensors[f"{base}.lora_down.weight"] = up.cpu(), down.cpu()
        step(i + 1, len(parameters))
    return tensors


def _names(part: str, parameters: dict[str, nn.Parameter]) -> Iterator[tuple[str, str]]:
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if part == "unet":
        for module, name in ldm_names(modules_of(shapes)).items():
            yield module, f"diffusion_model.{name}"
        return
    for number, prefix in towers(shapes).items():
        for module in modules_of(shapes):
            if module.startswith(prefix):
                yield module, f"text_encoders.{_ENCODERS[number]}.transformer.text_model.{module.removeprefix(prefix)}"
            elif module == prefix.removesuffix("text_model.") + "text_projection":
                yield module, f"text_encoders.{_ENCODERS[number]}.transformer.text_projection"
