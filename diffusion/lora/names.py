"""Which parameter of a network an adapter's module name means."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from diffusion.lora.ldm import ldm_names
from diffusion.memory import TorchDevice
from diffusion.values import WeightsRef

Shapes = Mapping[str, torch.Size]  # parameters of a network
Table = Mapping[tuple[str, str], str]  # (network, module with underscores) -> module in the network, see diffusion.lora.keys.place

_TOWER = re.compile(r"(.*?)encoder\.layers\.0\.self_attn\.q_proj\.weight")
_BIG_G = 1280  # width of OpenCLIP's bigG encoder, SDXL's second


def shapes_of(ref: WeightsRef, device: TorchDevice) -> dict[str, torch.Size]:
    """The shapes of a network's parameters; the network is loaded where it is not, since whatever uses the adapter needs it anyway."""
    with device.weights(ref) as module:
        return {name: parameter.shape for name, parameter in module.named_parameters()}


def modules_of(shapes: Shapes) -> list[str]:
    """The modules that have parameters, in order."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in shapes))


def table(part: str, shapes: Shapes) -> dict[tuple[str, str], str]:
    """All names by which adapter files may call the modules of a network; `part` is that of its WeightsRef."""
    found: dict[tuple[str, str], str] = {}
    if part == "unet":
        modules = modules_of(shapes)
        for module in modules:
            found["unet", _flat(module)] = module
        for module, original in ldm_names(modules).items():
            found["unet", _flat(original)] = module
        return found
    every = towers(shapes)
    for number, prefix in every.items():
        for module in modules_of(shapes):
            if module.startswith(prefix):
                found[number, _flat(module.removeprefix(prefix))] = module
            elif module == prefix.removesuffix("text_model.") + "text_projection":
                found[number, "text_projection"] = module
    if len(every) == 1 and _width(shapes, every["te1"]) == _BIG_G:  # SDXL's refiner has the second encoder only
        found.update({("te2", name): module for (_, name), module in list(found.items())})
    return found


def towers(shapes: Shapes) -> dict[str, str]:
    """Where each text encoder's names start: te1 is the first (CLIP-L in SDXL), te2 the second (OpenCLIP bigG)."""
    prefixes = [match[1] for match in map(_TOWER.fullmatch, shapes) if match]
    prefixes.sort(key=lambda prefix: _width(shapes, prefix) == _BIG_G)
    return {f"te{i + 1}": prefix for i, prefix in enumerate(prefixes)}


def _width(shapes: Shapes, prefix: str) -> int:
    return shapes[f"{prefix}encoder.layers.0.self_attn.q_proj.weight"][1]


def _flat(module: str) -> str:
    return module.replace(".", "_")
