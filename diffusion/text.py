"""From a prompt to a conditioning: weights in brackets, chunks of the encoder's length, and which token stands for which word."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.values import Clip, Cond, Conditioning, Tokens
from diffusion.weights import opened

KEEP_TOGETHER = 8  # a group of fewer tokens is not split over a chunk border
_ESCAPED = (("\\(", "\x00"), ("\\)", "\x01"))  # NUL and SOH stand for literal brackets while weights are parsed


class TextEncoder(Protocol):
    """What a family's text encoder offers to this file."""

    length: int  # positions of one chunk, begin and end included
    bos: int
    eos: int
    pad: int

    def split(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Token ids of a text without special tokens, each with the characters it covers."""

    def __call__(self, ids: Tensor, last_layer: int | None) -> tuple[Tensor, Tensor]:
        """Hidden states [k, length, d] and pooled vectors [k, d] of token ids [k, length]."""


# -- weights --


def parse(text: str) -> list[tuple[str, float]]:
    """Split a prompt into parts with weights.

    ``(x)`` multiplies the weight by 1.1 and nests; ``(x:1.2)`` sets it, whatever stands around; ``\\(`` and ``\\)`` are literal, as are
    unbalanced brackets; square brackets mean nothing. The parts joined are the prompt without its markup (ComfyUI's rules).
    """
    for escaped, stand_in in _ESCAPED:
        text = text.replace(escaped, stand_in)
    parts: list[tuple[str, float]] = []
    todo = [(text, 1.0, True)]  # text, weight, may hold groups; a stack instead of recursion, for any depth
    while todo:
        piece, weight, nested = todo.pop()
        if not nested:
            for escaped, stand_in in _ESCAPED:
                piece = piece.replace(stand_in, escaped[1])
            parts.append((piece, weight))
            continue
        todo.extend(reversed([_weigh(item, weight) for item in _top_level(piece)]))
    return parts


def _weigh(item: str, weight: float) -> tuple[str, float, bool]:
    if len(item) < 2 or item[0] != "(" or item[-1] != ")":
        return item, weight, False
    inner, weight = item[1:-1], weight * 1.1
    name, colon, number = inner.rpartition(":")
    if colon and name:
        try:
            absolute = float(number)
        except ValueError:
            return inner, weight, True
        if math.isfinite(absolute):
            return name, absolute, True
    return inner, weight, True


def _top_level(text: str) -> Iterator[str]:
    # The depth may fall below zero: after a stray ")" a "(" only returns to the surface, as in the reference.
    start = depth = 0
    for i, char in enumerate(text):
        if char == "(":
            if depth == 0 and start < i:
                yield text[start:i]
                start = i
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                yield text[start : i + 1]
                start = i + 1
    if start < len(text):
        yield text[start:]


# -- words and tokens --


def words(text: str) -> list[tuple[int, int]]:
    """Spans of the words of a text: runs of letters and digits (with inner ' and -), or of other printing characters."""
    return [match.span() for match in re.finditer(r"\w+(?:['’-]\w+)*|[^\w\s]+", text)]


@dataclass(frozen=True, slots=True)
class _Token:
    id: int
    weight: float = 1.0
    span: tuple[int, int] = (-1, -1)


def tokenize(encoder: TextEncoder, text: str, breaks: bool = False) -> Tokens:
    """Tokens of a prompt in chunks of the encoder's length, each with begin, end and padding.

    A part of one weight that has fewer than 8 tokens is not split over a chunk border. `breaks`: the word BREAK ends a chunk (otherwise it
    is a word like any other, as in ComfyUI).
    """
    groups: list[list[_Token] | None] = []
    clean = ""
    for part, weight in parse(text):
        for i, piece in enumerate(re.split(r"\bBREAK\b", part) if breaks else [part]):
            if i:
                groups.append(None)
            groups.append([_Token(id, weight, (a + len(clean), b + len(clean))) for id, (a, b) in encoder.split(piece)])
            clean += piece
    tokens = [token for chunk in _chunks(groups, encoder) for token in chunk]
    word_spans = words(clean)
    return Tokens(
        clean,
        tuple(token.id for token in tokens),
        tuple(token.span for token in tokens),
        tuple(next((w for w, (a, b) in enumerate(word_spans) if a <= token.span[0] < b), -1) for token in tokens),
        tuple(token.weight for token in tokens),
        encoder.length,
    )


def _chunks(groups: Sequence[list[_Token] | None], encoder: TextEncoder) -> list[list[_Token]]:
    room = encoder.length - 2
    chunks: list[list[_Token]] = [[]]
    for group in groups:
        if group is None:
            if chunks[-1]:
                chunks.append([])
            continue
        splits = len(group) >= min(KEEP_TOGETHER, room + 1)
        while len(chunks[-1]) + len(group) > room:
            cut = room - len(chunks[-1]) if splits else 0
            chunks[-1].extend(group[:cut])
            group = group[cut:]
            chunks.append([])
        chunks[-1].extend(group)
    end, pad = _Token(encoder.eos), _Token(encoder.pad)
    return [[_Token(encoder.bos), *chunk, end, *[pad] * (room - len(chunk))] for chunk in chunks]


def join_tokens(a: Tokens, b: Tokens) -> Tokens:
    """The tokens of two encodings whose token axes were concatenated."""
    offset, word = len(a.text) + 1, len(words(a.text))
    return Tokens(
        f"{a.text} {b.text}",
        a.ids + b.ids,
        a.spans + tuple((x + offset, y + offset) if x >= 0 else (-1, -1) for x, y in b.spans),
        a.words + tuple(w + word if w >= 0 else -1 for w in b.words),
        a.weights + b.weights,
        a.chunk,
    )


def token_indices(tokens: Tokens, phrase: str, occurrence: int = 0) -> tuple[int, ...]:
    """Positions on the token axis of a word or phrase in the prompt, its n-th occurrence (from 0), letter case ignored.

    Raises ValueError where the prompt does not have it.
    """
    pattern = r"\s+".join(re.escape(word) for word in phrase.split())
    if not pattern:
        raise ValueError("a word is wanted, an empty text given")
    found = [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", tokens.text, re.IGNORECASE)]
    if not 0 <= occurrence < len(found):
        raise ValueError(f"the prompt {tokens.text!r} has {phrase!r} {len(found)} times; occurrence {occurrence} (from 0) is wanted")
    start, end = found[occurrence]
    return tuple(i for i, (a, b) in enumerate(tokens.spans) if a < end and b > start)


# -- encoding --


@contextmanager
def open_text(clip: Clip, device: TorchDevice) -> Iterator[TextEncoder]:
    """The text encoder on the device with the deltas of its patches applied; undone on exit."""
    with opened(clip.weights, clip.patches, device.weights) as encoder:
        yield encoder  # type: ignore[misc]  # a family's text part offers TextEncoder


def encode(clip: Clip, text: str, device: TorchDevice, breaks: bool = False) -> Conditioning:
    """Encode a prompt: chunks are encoded apart and laid one after the other on the token axis; the pooled vector is the first one's.

    A token of weight w becomes z₀ + w·(z − z₀) with z₀ the encoding of the empty prompt at the same position of its chunk.
    """
    if not isinstance(text, str):
        raise TypeError(f"text: a string is wanted, {type(text).__name__} given")
    with open_text(clip, device) as encoder, torch.no_grad():
        tokens = tokenize(encoder, text, breaks)
        states, pooled = encode_tokens(encoder, tokens, clip.last_layer, device.torch)
    return Conditioning((Cond(states, pooled=pooled, tokens=(tokens,)),))


def encode_tokens(encoder: TextEncoder, tokens: Tokens, last_layer: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weighted hidden states [1, n, d] and the pooled vector [1, d] of tokens, in float32."""
    ids = torch.tensor(tokens.ids, device=device).view(-1, tokens.chunk)
    states, pooled = encoder(ids, last_layer)
    states = states.float()
    weights = torch.tensor(tokens.weights, device=device).view(-1, tokens.chunk, 1)
    if bool((weights != 1).any()):
        empty = torch.tensor([encoder.bos, encoder.eos, *[encoder.pad] * (tokens.chunk - 2)], device=device)
        z0 = encoder(empty[None], last_layer)[0].float()
        states = torch.where(weights == 1, states, z0 + weights * (states - z0))
    return states.reshape(1, -1, states.shape[-1]), pooled[:1].float()
