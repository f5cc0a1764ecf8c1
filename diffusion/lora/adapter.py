"""An adapter as it travels on an edge: small tensors by module, and which change of a weight they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffusion.lora.products import Decomposed, HadamardDelta, KroneckerDelta
from diffusion.weights import Change, Delta, FullDelta, LowRankDelta, SetWeight

_PRODUCTS = ("up", "hada_w1_a", "lokr_w1", "lokr_w1_a")  # one of them tells which product a module's tensors are


@dataclass(frozen=True, slots=True, eq=False)
class AdapterModule:
    """The tensors for one module of a network."""

    part: str  # "unet", "te1", "te2"; "" when the name does not tell
    path: str  # the module's name with underscores
    key: str  # the module's name as written in the file
    tensors: tuple[tuple[str, Tensor], ...]  # by field: up, down, mid, hada_w1_a, diff, …
    alpha: float | None = None  # kept as given; None: the rank

    def get(self, field: str) -> Tensor | None:
        """The tensor of a field."""
        return dict(self.tensors).get(field)


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """A LoRA or one of its relatives, not yet tied to a network."""

    socket: ClassVar[str] = "LORA_MODEL"
    name: str  # of the file, for messages
    modules: tuple[AdapterModule, ...]
    ignored: tuple[str, ...] = ()  # keys that belong to nothing known, as a bundled embedding's


def changes(module: AdapterModule, target: str) -> list[tuple[str, Delta | Change]]:
    """What the tensors of a module do to the parameters `target.weight` and `target.bias`, at strength 1.

    Each with the field of the file that it came from. Raises ValueError naming the key where a tensor of a product is missing.
    """
    weight, bias = (f"{target}.{end}" if target else end for end in ("weight", "bias"))
    fields = dict(module.tensors)
    found: list[tuple[str, Delta | Change]] = []
    for field in ("set_weight", "diff", "w_norm", "diff_b", "b_norm"):
        if field in fields:
            name = bias if field in ("diff_b", "b_norm") else weight
            found.append((field, SetWeight(name, fields[field]) if field == "set_weight" else FullDelta(name, fields[field])))
    kind = next((field for field in _PRODUCTS if field in fields), None)
    if kind is None:
        orphans = fields.keys() - {field for field, _ in found}
        if orphans or not found:
            raise ValueError(f"{module.key}: {_needs(orphans)}, only {', '.join(sorted(orphans)) or 'alpha'} given")
        return found
    delta = _product(module, kind, weight, fields)
    magnitude = fields.get("dora_scale")
    found.append((kind, delta if magnitude is None else Decomposed(weight, delta, magnitude)))
    return found


def _needs(orphans: Iterable[str]) -> str:
    first = min(orphans, default="")
    if first.startswith("hada"):
        return "hada_w1_a, hada_w1_b, hada_w2_a and hada_w2_b are wanted"
    if first.startswith("lokr"):
        return "lokr_w1 and lokr_w2, whole or in factors _a and _b, are wanted"
    return "lora_up and lora_down (or lora_B and lora_A) are wanted"


def _product(module: AdapterModule, kind: str, weight: str, fields: Mapping[str, Tensor]) -> Delta:
    try:
        if kind == "up":
            return LowRankDelta(weight, fields["up"], fields["down"], module.alpha, mid=fields.get("mid"))
        if kind == "hada_w1_a":
            a = [fields[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b")]
            return HadamardDelta(weight, a[0], a[1], a[2], a[3], module.alpha, t1=fields.get("hada_t1"), t2=fields.get("hada_t2"))
        w1, w2 = ((fields[f"lokr_{w}"],) if f"lokr_{w}" in fields else (fields[f"lokr_{w}_a"], fields[f"lokr_{w}_b"]) for w in ("w1", "w2"))
        return KroneckerDelta(weight, w1, w2, module.alpha, t2=fields.get("lokr_t2"))
    except KeyError as problem:
        raise ValueError(
            f"{module.key}: {_needs(field for field in fields if field.startswith(kind[:4]))}, {problem} is missing"
        ) from problem
