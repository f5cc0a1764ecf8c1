"""How strongly a picture speaks in each transformer of a U-Net: the weight types that graphs name.

Style and composition: Wang et al. 2024, "InstantStyle". The other curves and figures are those of ComfyUI's IP-Adapter nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusion.call import Site

LEAST, WEAK, FAINT, EARLY = 0.05, 0.2, 0.1, 0.25
WEIGHT_TYPES = (
    "linear",
    "ease in",
    "ease out",
    "ease in-out",
    "reverse in-out",
    "weak input",
    "weak output",
    "weak middle",
    "strong middle",
    "style transfer",
    "composition",
    "strong style transfer",
    "style and composition",
    "style transfer precise",
    "composition precise",
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one attention module gives to a picture: a weight, and whether it repels instead (the negative rows see the picture)."""

    weight: float
    repels: bool = False


@dataclass(frozen=True, slots=True)
class _Transformer:
    place: str
    block: int
    inner: int  # which of its block


def transformers(sites: Sequence[Site]) -> dict[str, _Transformer]:
    """The transformers that cross-attention sites are in, by their path, in order of execution."""
    found: dict[str, _Transformer] = {}
    for site in sites:
        path = _path(site)
        if site.cross and path not in found:
            inner = sum((t.place, t.block) == (site.place, site.block) for t in found.values())
            found[path] = _Transformer(site.place, site.block, inner)
    return found


def shares(sites: Sequence[Site], weight: float, kind: str, xl: bool) -> dict[int, Share]:
    """What each cross-attention site gives to the picture, by its index; sites with weight 0 are left out. `xl`: a U-Net as SDXL's."""
    found = transformers(sites)
    composing, styling = _composing(list(found.values()), xl), _styling(list(found.values()), xl)
    each: list[Share] = []
    for t, transformer in enumerate(found.values()):
        if kind in _CURVES:
            each.append(Share(weight * _CURVES[kind](t, len(found))))
        elif kind in _PLACES:
            each.append(Share(weight * (WEAK if transformer.place in _PLACES[kind] else 1)))
        elif t in composing:
            spoken = kind in ("composition", "style and composition", "style transfer precise", "composition precise")
            each.append(Share(weight * composing[t] if spoken else 0.0, repels=kind == "style transfer precise"))
        elif t in styling:
            spoken = kind != "composition"
            each.append(Share(weight if spoken else 0.0, repels=kind == "composition precise"))
        else:
            rest = {"strong style transfer": 1.0, "composition precise": FAINT}.get(kind, 0.0)
            each.append(Share(weight * rest, repels=kind == "composition precise"))
    by_path = dict(zip(found, each, strict=True))
    return {site.index: by_path[_path(site)] for site in sites if site.cross and by_path[_path(site)].weight}


_CURVES = {
    "linear": lambda t, n: 1.0,
    "ease in": lambda t, n: _eased(1 - t / n),
    "ease out": lambda t, n: _eased(t / n),
    "ease in-out": lambda t, n: _eased(1 - abs(2 * t / n - 1)),
    "reverse in-out": lambda t, n: _eased(abs(2 * t / n - 1)),
}
_PLACES = {"weak input": ("down",), "weak middle": ("mid",), "weak output": ("up",), "strong middle": ("down", "up")}


def _eased(share: float) -> float:
    return LEAST + (1 - LEAST) * share


def _composing(found: Sequence[_Transformer], xl: bool) -> dict[int, float]:
    """The transformers that place things, with their part: the last on the way down, and before it a quarter (not in SDXL)."""
    deepest = max((t.block for t in found if t.place == "down"), default=-1)
    there = [i for i, t in enumerate(found) if t.place == "down" and t.block == deepest]
    return {i: 1.0 if i == there[-1] else EARLY for i in there if i == there[-1] or not xl}


def _styling(found: Sequence[_Transformer], xl: bool) -> set[int]:
    """The transformers that colour things: in SDXL the second on the way up, else all far enough from the middle."""
    first = min((t.block for t in found if t.place == "up"), default=-1)
    if xl:
        return {i for i, t in enumerate(found) if (t.place, t.block, t.inner) == ("up", first, 1)}
    near = {i for i, t in enumerate(found) if t.place == "mid" or (t.place == "up" and t.block == first and t.inner < 2)}
    return set(range(len(found))) - near - _composing(found, xl).keys()


def _path(site: Site) -> str:
    return site.name.partition(".transformer_blocks.")[0]
