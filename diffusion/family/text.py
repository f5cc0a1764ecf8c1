"""CLIP text encoders with their tokenizer: one, or the two of SDXL side by side.

Radford et al. 2021; OpenCLIP's in Stable Diffusion 2 and XL.
"""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

Module = Any  # transformers' declarations are not read

# each CJK ideograph is a word of its own, as in the tokenizer that ComfyUI's pictures were made with
_IDEOGRAPH = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f])")
BOS, EOS = 49406, 49407


class TextEncoder(nn.Module):
    """A CLIP text encoder with its tokenizer.

    `layer` is the family's own choice of the layer whose states count (-1: the last), `norm` whether the final norm is applied to them.
    """

    def __init__(self, model: Module, tokenizer: Module, *, name: str = "l", layer: int = -1, norm: bool = True) -> None:
        super().__init__()
        self.model = model  # with a `text_projection` where the pooled vector is projected
        self.name, self.layer, self.norm = name, layer, norm
        self._split: Tokenizer = tokenizer.backend_tokenizer
        self._split.no_truncation()
        self._split.no_padding()
        self.length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        self.width = int(model.config.hidden_size)
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id

    @property
    def towers(self) -> tuple[TextEncoder, ...]:
        """The encoder itself, as one of one."""
        return (self,)

    @property
    def left_out(self) -> int:
        """How many layers at the end are not there: the last of 2.x, which it does not use, in diffusers' folders."""
        return int(self.name == "h" and self.layer == -1)

    def split(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Token ids of a text without special tokens, each with the characters it covers."""
        tokens, start = [], 0
        for piece in _IDEOGRAPH.split(text):
            encoding = self._split.encode(piece, add_special_tokens=False)
            tokens += [(id, (start + a, start + b)) for id, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)]
            start += len(piece)
        return tokens

    def forward(self, ids: Tensor, last_layer: int | None = None, vectors: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Hidden states [k, n, d] after `last_layer` (-1: the last; None: the family's own), and pooled vectors [k, d] of ids [k, n].

        The id -1 - i stands for the i-th of `vectors`, [d] each. The pooled vector is always the last layer's at the first end token.
        """
        layers = self.model.encoder.layers
        stop, norm = self.layer if last_layer is None else last_layer + self.left_out, self.model.final_layer_norm
        within = 1 <= -stop <= len(layers)
        if not within:
            warnings.warn(
                f"the text encoder has {len(layers)} layers; stopping at {last_layer} is not possible, the last is used", stacklevel=2
            )
            stop = -1
        embeddings, n = self.model.embeddings, ids.shape[1]
        tokens = embeddings.token_embedding(ids.clamp(min=0))
        for row, position in (ids < 0).nonzero().tolist():
            tokens[row, position] = vectors[-1 - int(ids[row, position])].to(tokens)
        h = tokens + embeddings.position_embedding.weight[:n]
        causal = torch.full((n, n), float("-inf"), dtype=h.dtype, device=h.device).triu(1)[None, None]
        chosen = h
        for i, layer in enumerate(layers):
            h = layer(h, causal)
            if i == len(layers) + stop:
                chosen = h
        end = (ids == self.eos).int().argmax(dim=1)
        pooled = norm(h)[torch.arange(len(ids), device=ids.device), end]
        projection = getattr(self.model, "text_projection", None)
        return norm(chosen) if self.norm or not within else chosen, pooled if projection is None else projection(pooled)


class TextEncoders(nn.Module):
    """SDXL's two text encoders, `l` and `g`."""

    def __init__(self, l: TextEncoder, g: TextEncoder) -> None:  # noqa: E741
        super().__init__()
        self.l, self.g = l, g

    @property
    def towers(self) -> tuple[TextEncoder, ...]:
        """Both encoders; their states are laid side by side, the pooled vector is the last one's."""
        return (self.l, self.g)


def build(config: CLIPTextConfig, projection: int | None) -> Module:
    """A text encoder without weights, on the meta device; `projection` is the width of the projected pooled vector."""
    with torch.device("meta"):
        model = CLIPTextModel(config)
        if projection is not None:
            model.add_module("text_projection", nn.Linear(config.hidden_size, projection, bias=False))
    model.embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]  # not part of the weights
    return model


@lru_cache(maxsize=2)
def clip_tokenizer(pads_with_end: bool) -> CLIPTokenizer:
    """CLIP's tokenizer from the vocabulary that ships with the package (see VOCABULARY.md there); 77 positions.

    CLIP-L pads with the end token, OpenCLIP with the token 0.
    """
    packed = resources.files("diffusion.family").joinpath("clip_merges.txt.gz").read_bytes()
    merges = [tuple(line.split(" ")) for line in gzip.decompress(packed).decode("utf-8").split("\n")]
    letters = _letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    pad = "<|endoftext|>" if pads_with_end else tokens[0]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, model_max_length=77, pad_token=pad)


def _letters() -> list[str]:
    """One printing character for each byte: itself where it prints, else one from 256 on (the order of GPT-2's byte-level vocabulary)."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printing]
    return [*map(chr, printing), *(chr(256 + i) for i in range(len(others)))]
