"""What the IPADAPTER socket carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffusion.values import WeightsRef


@dataclass(frozen=True, slots=True)
class IPAdapter:
    """A projector from a picture's embedding to tokens, and key and value weights for each cross-attention: a reference to them."""

    socket: ClassVar[str] = "IPADAPTER"
    weights: WeightsRef
    kind: str  # "plain" reads the embedding of the whole picture; "plus" and "full" its states before the encoder's last layer
    reads: int  # width of what it reads
    text: int  # width of the tokens that it makes, the text's
    sites: int  # cross-attention modules that it has weights for


@dataclass(frozen=True, slots=True, eq=False)
class ImageEmbeds:
    """What an adapter reads of b pictures, before its projector; they may be weighted and combined."""

    socket: ClassVar[str] = "EMBEDS"
    values: Tensor  # [b, d], or [b, n, d] of adapters that read states
