"""Learned words (textual inversion): the vectors of a file in any of the formats that are about, by text encoder.

Gal et al. 2022; formats of the authors, AUTOMATIC1111's web UI, diffusers, SDXL files and LoRA files that bring embeddings along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.files import check_allowed, is_pickled, load_weights, open_tensors

Vectors = Mapping[str, Tensor]  # [n, d] or [d] by the text encoder's name; "" where the file does not tell
SUFFIXES = ("", ".safetensors", ".pt", ".bin")  # what a prompt may leave out of a file's name
_KEYS = {"clip_l": "l", "clip_g": "g", "clip_h": "h"}
_BUNDLE = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?P<key>string_to_param\..+|clip_[lgh]|emb_params|[^.]+)")


def read_embedding(path: Path) -> dict[str, Tensor]:
    """The vectors of a learned word, [n, d] or [d], by the text encoder's name (l, h, g), or "" where the file does not tell.

    Raises ValueError for a file that holds none, or a pickled one that is not allowed.
    """
    if is_pickled(path):
        check_allowed(path)
        content = load_weights(path)
    else:
        file = open_tensors(path)
        content = file.read(file.shapes)
    found = vectors(content)
    if not found:
        raise ValueError(f"{path.name}: the vectors of a learned word are wanted, none found")
    return found


def vectors(content: Any) -> dict[str, Tensor]:
    """The vectors of a learned word in what a file holds, by the text encoder's name; empty where there are none."""
    return {name: tensor for name, tensor in _take(content).items() if tensor.ndim in (1, 2) and tensor.is_floating_point()}


def _take(content: Any) -> dict[str, Tensor]:
    if isinstance(content, Tensor):
        return {"": content}
    if isinstance(content, Sequence) and content and not isinstance(content, str):
        return _take(content[0])
    if not hasattr(content, "items"):  # a ParameterDict is no Mapping
        return {}
    named: Mapping[str, Any] = dict(content.items())
    if "string_to_param" in named:
        return _first(named["string_to_param"])
    bundled = {m["key"]: value for key, value in named.items() if isinstance(key, str) and (m := _BUNDLE.fullmatch(key))}
    if bundled:
        return _take(bundled)
    if any(key in named for key in _KEYS):
        return {name: named[key] for key, name in _KEYS.items() if isinstance(named.get(key), Tensor)}
    return _first(named)


def _first(named: Any) -> dict[str, Tensor]:
    """The first tensor: of emb_params, of the only word, of string_to_param."""
    return next(({"": value.detach()} for _, value in named.items() if isinstance(value, Tensor)), {})
