"""From a prompt to a conditioning: weights in brackets, learned words, chunks of tokens, and which token stands for which word."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.values import Clip, Cond, Conditioning, Tokens
from diffusion.weights import opened

KEEP_TOGETHER = 8  # a group of fewer tokens is not split over a chunk border
_ESCAPED = (("\\(", "\x00"), ("\\)", "\x01"))  # NUL and SOH stand for literal brackets while weights are parsed


Vectors = Mapping[str, Tensor]  # a learned word's vectors [n, d], by the encoder's name; "" for any
FindWord = Callable[[str], Vectors | None]
EMBEDDING = "embedding:"  # what stands before the name of a learned word


class TextEncoder(Protocol):
    """What a family's text encoder offers to this file."""

    name: str  # l, h or g
    width: int  # of the vectors that it reads
    length: int  # positions of one chunk, begin and end included
    bos: int
    eos: int
    pad: int

    def split(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Token ids of a text without special tokens, each with the characters it covers."""

    def __call__(self, ids: Tensor, last_layer: int | None, vectors: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        """Hidden states [k, length, d] and pooled vectors [k, d] of token ids [k, length]; -1 - i stands for the i-th vector."""


class TextPart(Protocol):
    """A family's text encoders: one or two of them."""

    towers: tuple[TextEncoder, ...]


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
    vector: Tensor | None = None


def tokenize(encoder: TextEncoder, text: str, breaks: bool = False, find: FindWord | None = None) -> Tokens:
    """Tokens of a prompt in chunks of the encoder's length, each with begin, end and padding.

    A part of one weight that has fewer than 8 tokens is not split over a chunk border. `breaks`: the word BREAK ends a chunk (otherwise it
    is a word like any other, as in ComfyUI). `find` gives the vectors of a learned word, written `embedding:name`; a name that it does not
    know stays text, with a warning, and vectors of another width than the encoder's are left out, with a warning.
    """
    groups: list[list[_Token] | None] = []
    clean = ""
    for part, weight in parse(text):
        for i, piece in enumerate(re.split(r"\bBREAK\b", part) if breaks else [part]):
            if i:
                groups.append(None)
            for tokens in _pieces(encoder, piece, weight, find):
                groups.append([replace(token, span=(token.span[0] + len(clean), token.span[1] + len(clean))) for token in tokens])
            clean += piece
    tokens = [token for chunk in _chunks(groups, encoder) for token in chunk]
    vectors = [token.vector for token in tokens if token.vector is not None]
    learned = iter(range(len(vectors)))
    word_spans = words(clean)
    return Tokens(
        clean,
        tuple(token.id if token.vector is None else -1 - next(learned) for token in tokens),
        tuple(token.span for token in tokens),
        tuple(next((w for w, (a, b) in enumerate(word_spans) if a <= token.span[0] < b), -1) for token in tokens),
        tuple(token.weight for token in tokens),
        encoder.length,
        tuple(vectors),
    )


def _pieces(encoder: TextEncoder, text: str, weight: float, find: FindWord | None) -> Iterator[list[_Token]]:
    """The tokens of a text, group by group: a learned word is a group of its own."""

    def plain(start: int, end: int) -> list[_Token]:
        return [_Token(id, weight, (start + a, start + b)) for id, (a, b) in encoder.split(text[start:end])]

    start = 0
    for match in re.finditer(rf"(?<!\S){EMBEDDING}(\S+)", text) if find is not None else ():
        name, found = match[1], None
        for name in dict.fromkeys((match[1], match[1].rstrip(","))):
            found = find(name) if find is not None and name else None
            if found is not None:
                break
        if found is None:
            warnings.warn(f"there is no embedding {match[1]!r}; it is read as text", stacklevel=2)
            continue
        vectors = _fitting(found, encoder, name)
        end = match.start() + len(EMBEDDING) + len(name)
        yield plain(start, match.start())
        yield [_Token(0, weight, (match.start(), end), vector) for vector in vectors]
        start = end
    yield plain(start, len(text))


def _fitting(found: Vectors, encoder: TextEncoder, name: str) -> Sequence[Tensor]:
    vectors = found.get(encoder.name, found.get(""))
    if vectors is None:
        warnings.warn(f"embedding {name!r} has nothing for the text encoder {encoder.name}; it is left out there", stacklevel=2)
        return ()
    vectors = vectors.reshape(-1, vectors.shape[-1])
    if vectors.shape[-1] != encoder.width:
        wanted = f"{encoder.width} is wanted by the text encoder {encoder.name}"
        warnings.warn(f"embedding {name!r} has vectors of width {vectors.shape[-1]}, {wanted}; it is left out there", stacklevel=2)
        return ()
    return list(vectors)


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
        a.ids + tuple(id if id >= 0 else id - len(a.vectors) for id in b.ids),
        a.spans + tuple((x + offset, y + offset) if x >= 0 else (-1, -1) for x, y in b.spans),
        a.words + tuple(w + word if w >= 0 else -1 for w in b.words),
        a.weights + b.weights,
        a.chunk,
        a.vectors + b.vectors,
    )


def token_indices(tokens: Tokens, phrase: str, occurrence: int = 0, *, name: str = "word") -> tuple[int, ...]:
    """Positions on the token axis of a word or phrase in the prompt, its n-th occurrence (from 0), letter case ignored.

    Raises ValueError where the prompt does not have it; `name` is the input that it came in by.
    """
    pattern = r"\s+".join(re.escape(word) for word in phrase.split())
    if not pattern:
        raise ValueError(f"{name}: a word is wanted, an empty text given")
    found = [m.span() for m in re.finditer(rf"(?<!\w){pattern}(?!\w)", tokens.text, re.IGNORECASE)]
    if not 0 <= occurrence < len(found):
        raise ValueError(f"{name}: the prompt {tokens.text!r} has {phrase!r} {len(found)} times, occurrence {occurrence} is wanted")
    start, end = found[occurrence]
    return tuple(i for i, (a, b) in enumerate(tokens.spans) if a < end and b > start)


# -- encoding --


@contextmanager
def open_text(clip: Clip, device: TorchDevice) -> Iterator[TextEncoder]:
    """The text encoder on the device with its weight patches in effect; undone on exit. Of SDXL's two the first."""
    with _open(clip, device) as part:
        yield part.towers[0]


@contextmanager
def _open(clip: Clip, device: TorchDevice) -> Iterator[TextPart]:
    with opened(clip.weights, clip.patches, device.weights) as part:
        yield part  # type: ignore[misc]  # a family's text part offers TextPart


def encode(
    clip: Clip, text: str | Mapping[str, str], device: TorchDevice, breaks: bool = False, *, find: FindWord | None = None
) -> Conditioning:
    """Encode a prompt: chunks are encoded apart and laid one after the other on the token axis; the pooled vector is the first one's.

    A token of weight w becomes z₀ + w·(z − z₀) with z₀ the encoding of the empty prompt at the same position of its chunk. The states of
    two encoders lie side by side, and the pooled vector is the second's; `text` may be a prompt for each, by the encoder's name, the
    shorter one filled up with empty chunks. `find` gives the vectors of learned words.
    """
    texts = {"": text} if isinstance(text, str) else text
    for each in texts.values() if isinstance(texts, Mapping) else (texts,):
        if not isinstance(each, str):
            raise TypeError(f"text: a string is wanted, {type(each).__name__} given")
    with _open(clip, device) as part, torch.no_grad():
        all_tokens = [tokenize(tower, texts.get(tower.name, texts.get("", "")), breaks, find) for tower in part.towers]
        longest = max(len(tokens) // tokens.chunk for tokens in all_tokens)
        filled = [_fill(tower, tokens, longest) for tower, tokens in zip(part.towers, all_tokens, strict=True)]
        encoded = [encode_tokens(tower, tokens, clip.last_layer, device.torch) for tower, tokens in zip(part.towers, filled, strict=True)]
    states = torch.cat([states for states, _ in encoded], dim=-1)
    return Conditioning((Cond(states, pooled=encoded[-1][1], tokens=(filled[0],)),))


def _fill(encoder: TextEncoder, tokens: Tokens, chunks: int) -> Tokens:
    while len(tokens) < chunks * tokens.chunk:
        empty = tokenize(encoder, "")
        tokens = replace(join_tokens(tokens, empty), text=tokens.text)
    return tokens


def encode_tokens(encoder: TextEncoder, tokens: Tokens, last_layer: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weighted hidden states [1, n, d] and the pooled vector [1, d] of tokens, in float32."""
    ids = torch.tensor(tokens.ids, device=device).view(-1, tokens.chunk)
    states, pooled = encoder(ids, last_layer, tokens.vectors) if tokens.vectors else encoder(ids, last_layer)
    states = states.float()
    weights = torch.tensor(tokens.weights, device=device).view(-1, tokens.chunk, 1)
    if bool((weights != 1).any()):
        empty = torch.tensor([encoder.bos, encoder.eos, *[encoder.pad] * (tokens.chunk - 2)], device=device)
        z0 = encoder(empty[None], last_layer)[0].float()
        states = torch.where(weights == 1, states, z0 + weights * (states - z0))
    return states.reshape(1, -1, states.shape[-1]), pooled[:1].float()
