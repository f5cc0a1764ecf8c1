"""IP-Adapters (Ye et al. 2023) as networks: a projector, and key and value weights for each cross-attention of a U-Net."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.family import LatentFormat
from diffusion.files import open_tensors
from diffusion.ip_adapter.projector import build
from diffusion.loading import fill
from diffusion.values import WeightsRef

latent = LatentFormat(None, scale=1.0, channels=4, factor=8)  # it knows no latents
SITE = re.compile(r"(\d+)\.to_[kv]_ip\.weight")


class Adapter(nn.Module):
    """The two parts, under the names that files have."""

    def __init__(self, image_proj: nn.Module, widths: Mapping[str, int], text: int) -> None:
        super().__init__()
        self.image_proj = image_proj
        self.ip_adapter = nn.ModuleDict(
            {
                number: nn.ModuleDict({name: nn.Linear(text, width, bias=False) for name in ("to_k_ip", "to_v_ip")})
                for number, width in widths.items()
            }
        )

    def keys_values(self, number: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """K' and V' [b, n, width] of tokens [b, n, d] for the attention of this number. KeyError where the file has none."""
        pair = self.ip_adapter[str(number)]
        return pair["to_k_ip"](tokens), pair["to_v_ip"](tokens)  # type: ignore[index]


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The adapter in a file. Raises ValueError for a file that holds none, or one of a kind that is not known."""
    path = Path(ref.source)
    file = open_tensors(path)
    return assembled(file.read(file.shapes), dtype, path)[0]


def assembled(tensors: Mapping[str, Tensor], dtype: torch.dtype, source: Path) -> tuple[Adapter, int, int]:
    """The adapter with these weights, the width that it reads, and that of its tokens; meta tensors only check the fit."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    projector, others = split(shapes)
    widths = {m[1]: shape[0] for name, shape in others.items() if (m := SITE.fullmatch(name))}
    with torch.device("meta"):
        try:
            image_proj, reads, text = build(projector)
        except KeyError as missing:
            raise ValueError(f"{source.name}: image_proj.{missing.args[0]} is missing in this IP-Adapter") from missing
        except ValueError as problem:
            raise ValueError(f"{source.name}: {problem}") from problem
        adapter = Adapter(image_proj, dict(sorted(widths.items(), key=lambda item: int(item[0]))), text)
    fill(adapter, {name: tensor for name, tensor in tensors.items() if name.startswith(("image_proj.", "ip_adapter."))}, dtype, source)
    return adapter, reads, text


def split(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """The shapes of the projector's weights and those of the attention's, without their prefixes."""
    both = ("image_proj.", "ip_adapter.")
    projector, others = ({name.removeprefix(p): s for name, s in shapes.items() if name.startswith(p)} for p in both)
    return projector, others
