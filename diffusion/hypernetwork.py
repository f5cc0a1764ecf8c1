"""Hypernetworks (as AUTOMATIC1111's web UI trains them): small networks that move what keys and values are projected from.

There are two for each width of attention's input, one for keys and one for values. A pickled file is a table with a width (a number) →
two tables of layers `linear.N.weight`, `linear.N.bias`, and settings beside them; converted to safetensors these tensors are called
`768.0.linear.N.weight` and the settings are the file's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.files import check_allowed, is_pickled, load_weights, open_tensors
from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site

SETTINGS = ("activation_func", "activate_output")  # what else a file says matters only in training
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "leakyrelu": F.leaky_relu,
    "elu": F.elu,
    "swish": F.hardswish,  # the web UI's meaning of the name
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softsign": F.softsign,
    "mish": F.mish,
    "silu": F.silu,
    "gelu": F.gelu,
    "selu": F.selu,
    "celu": F.celu,
    "relu6": F.relu6,
    "softplus": F.softplus,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
}
_NAMED = re.compile(r"linear\.?(\d+)\.(weight|bias)")  # linear1 in the oldest files
_CONVERTED = re.compile(r"(\d+)\.([01])\.(.+)")


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Linear layers with an activation between them, each followed by a layer norm in some files."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # weight and bias; a weight of one dimension is a layer norm's
    activation: str
    activate_output: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """f(x) of x [..., width], of the same shape."""
        linears = [i for i, (weight, _) in enumerate(self.layers) if weight.ndim == 2]
        for i, (weight, bias) in enumerate(self.layers):
            if weight.ndim == 1:
                x = F.layer_norm(x, weight.shape, weight, bias)
                continue
            x = F.linear(x, weight, bias)
            if i != linears[-1] or self.activate_output:
                x = ACTIVATIONS[self.activation](x)
        return x

    def to(self, device: torch.device, dtype: torch.dtype) -> Network:
        """The same network there."""
        return replace(self, layers=tuple((weight.to(device, dtype), bias.to(device, dtype)) for weight, bias in self.layers))


Networks = Mapping[int, tuple[Network, Network]]  # by width: for keys, for values


@dataclass(frozen=True, slots=True, eq=False)
class Hypernetwork(AttentionPatch):
    """Keys from c + strength·f(c), values from c + strength·g(c), where c is the text, or in self-attention the picture.

    Several go one after the other.
    """

    networks: Networks
    strength: float = 1.0

    def begin(self, run: Run) -> Any:
        """The networks on the device, and which sites have their width. Raises ValueError where none has."""
        widths = {site.index: int(run.net.unet.get_parameter(f"{site.name}.to_k.weight").shape[1]) for site in run.sites}
        if not self.networks.keys() & set(widths.values()):
            has, wanted = (", ".join(map(str, sorted(set(each)))) for each in (self.networks, widths.values()))
            raise ValueError(f"hypernetwork: it has widths {has}, this model's attention {wanted}; use one made for this kind of model")
        moved = {width: (f.to(run.device, run.dtype), g.to(run.device, run.dtype)) for width, (f, g) in self.networks.items()}
        return Moving({index: moved[width] for index, width in widths.items() if width in moved}, self.strength)


@dataclass(frozen=True, slots=True, eq=False)
class Moving(AttentionPatch):
    """A hypernetwork at work."""

    at: Mapping[int, tuple[Network, Network]]  # by the index of a site
    strength: float

    def at_site(self, site: Site) -> bool:
        """Where the input has a width that the file is for."""
        return site.index in self.at

    def contexts(self, site: Site, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both moved by their networks."""
        f, g = self.at[site.index]
        return key + f(key) * self.strength, value + g(value) * self.strength

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Nothing to change in the attention itself."""
        return next(call)


# -- files --


def read_hypernetwork(path: Path) -> Networks:
    """The networks of a file, by width.

    Raises FileNotFoundError when there is no such file, ValueError for another kind of file, or a pickled one that is not allowed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: a hypernetwork is wanted, nothing found")
    settings: Mapping[str, str]
    if is_pickled(path):
        check_allowed(path)
        tensors, settings = flattened(load_weights(path))
    else:
        file = open_tensors(path)
        tensors, settings = file.read(file.shapes), file.metadata
    try:
        return _networks(tensors, settings)
    except ValueError as problem:
        raise ValueError(f"{path.name}: {problem}") from problem


def flattened(content: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and settings of a pickled hypernetwork under the names that safetensors files use; nothing where it is something else."""
    tensors: dict[str, Tensor] = {}
    named = content if isinstance(content, Mapping) else {}
    for width, pair in named.items():
        if str(width).isdecimal() and isinstance(pair, list | tuple):
            for i, layers in enumerate(pair):
                given = layers if isinstance(layers, Mapping) else {}
                tensors.update({f"{width}.{i}.{name}": tensor.detach() for name, tensor in given.items() if isinstance(tensor, Tensor)})
    return tensors, {name: str(named[name]) for name in SETTINGS if tensors and named.get(name) is not None}


def _networks(tensors: Mapping[str, Tensor], settings: Mapping[str, str]) -> Networks:
    """Networks of named tensors. Raises ValueError where they are something else or do not fit together."""
    found: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if (match := _CONVERTED.fullmatch(name)) is not None:
            found.setdefault(int(match[1]), ({}, {}))[int(match[2])][match[3]] = tensor
    if not found:
        given = ", ".join(list(tensors)[:3]) or "none of its tensors"
        raise ValueError(f"a hypernetwork is wanted (a width, and layers for keys and for values), {given} found")
    activation = settings.get("activation_func", "linear").lower()
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation_func: one of {', '.join(ACTIVATIONS)} is wanted, {activation!r} found")
    last = settings.get("activate_output", "").lower() == "true"
    return {
        width: (Network(_layers(keys, width), activation, last), Network(_layers(values, width), activation, last))
        for width, (keys, values) in sorted(found.items())
    }


def _layers(named: Mapping[str, Tensor], width: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Layers in their order. Raises ValueError where they do not lead from the width to the width."""
    numbers = {int(match[1]): name.rpartition(".")[0] for name in named if (match := _NAMED.fullmatch(name)) is not None}
    layers = []
    arrived = width
    for _, name in sorted(numbers.items()):
        if (missing := {f"{name}.weight", f"{name}.bias"} - named.keys()) or named[f"{name}.weight"].ndim not in (1, 2):
            raise ValueError(f"width {width}: weight and bias of a layer {name} are wanted; not so: {', '.join(missing) or 'their shape'}")
        weight, bias = named[f"{name}.weight"], named[f"{name}.bias"]
        if weight.shape[-1] != arrived or bias.shape != weight.shape[:1]:
            raise ValueError(f"width {width}: {name} should take {arrived} numbers, its shape is {tuple(weight.shape)}")
        arrived = weight.shape[0]
        layers.append((weight, bias))
    if not any(weight.ndim == 2 for weight, _ in layers) or arrived != width:
        raise ValueError(f"width {width}: linear layers that give {width} numbers are wanted, {arrived if layers else 'none'} found")
    return tuple(layers)
