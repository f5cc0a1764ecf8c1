"""Which token of one prompt stands for which of another, and what becomes of its attention (Prompt-to-Prompt, Hertz et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from diffusion.text import token_indices, words
from diffusion.values import Conditioning, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class TokenEdit:
    """How the attention columns of one target prompt are made from those of the source."""

    tokens: Tokens
    mapping: Tensor  # A [source tokens, target tokens]: column j of the edit is Σ_i M[:, i]·A_ij
    matched: Tensor  # a [target tokens]: 1 where there is such a column, 0 where a token is new and keeps its own
    scale: Tensor  # c [target tokens]: multiplies a column of the edit
    window: Tensor  # [target tokens, 2]: shares of the run in which a column is edited; nan leaves that to whoever edits


@dataclass(frozen=True, slots=True, eq=False)
class TokenAlignment:
    """A source prompt and its targets, token by token."""

    socket: ClassVar[str] = "TOKEN_ALIGNMENT"
    source: Tokens
    targets: tuple[TokenEdit, ...]

    def marked(self, word: str, occurrence: int, mark: Callable[[TokenEdit, list[int]], TokenEdit]) -> TokenAlignment:
        """The alignment with each target that has the word changed by `mark`. Raises ValueError where no target has it."""
        changed, problem = [], ValueError("word: a target is wanted, there is none")
        for target in self.targets:
            try:
                target = mark(target, list(token_indices(target.tokens, word, occurrence)))
            except ValueError as missing:
                problem = missing
            changed.append(target)
        if all(new is old for new, old in zip(changed, self.targets, strict=True)):
            raise problem
        return replace(self, targets=tuple(changed))

    def scaled(self, word: str, scale: float, occurrence: int = 0) -> TokenAlignment:
        """The alignment with a word of the targets attended to `scale` times as much."""
        return self.marked(word, occurrence, lambda t, at: replace(t, scale=t.scale.index_fill(0, torch.tensor(at), scale)))

    def windowed(self, word: str, start: float, end: float, occurrence: int = 0) -> TokenAlignment:
        """The alignment with a word of the targets edited from a share of the run to another."""
        limits = torch.tensor([start, end])

        def mark(target: TokenEdit, at: list[int]) -> TokenEdit:
            return replace(target, window=target.window.index_put((torch.tensor(at),), limits))

        return self.marked(word, occurrence, mark)


# -- the two alignments --


def align(positive: Conditioning, mode: str) -> TokenAlignment:
    """The alignment of a conditioning's first prompt with its others, by "replace" or "refine". Raises ValueError for what is not such."""
    if len(positive) != 1:
        raise ValueError(f"positive: one entry is wanted, with a row for each prompt, {len(positive)} combined given")
    source, *targets = positive.entries[0].tokens or (None,)
    if source is None:
        raise ValueError("positive: encoded prompts are wanted, this one does not know which words it was made of")
    if not targets:
        raise ValueError("positive: a source and a target are wanted, one prompt given; use SourceAndTarget")
    return TokenAlignment(source, tuple({"replace": replaced, "refine": refined}[mode](source, target) for target in targets))


def replaced(source: Tokens, target: Tokens) -> TokenEdit:
    """Word by word: each word of the target takes the columns of the source's word in its place (sec. 3.2, "word swap").

    Words of different numbers of tokens share: each of the target's gets the mean of what the source's have, times their number, so that
    a query's probabilities still sum to 1. Raises ValueError for prompts of different numbers of words.
    """
    ours, theirs = _by_word(source), _by_word(target)
    if len(ours) != len(theirs):
        raise ValueError(
            f"mode: replace wants as many words in target as in source, {len(theirs)} and {len(ours)} given in "
            f"{target.text!r} and {source.text!r}; use refine"
        )
    mapping = torch.zeros(len(source), len(target))
    for i, j in zip(ours, theirs, strict=True):
        if len(i) == len(j):
            mapping[i, j] = 1
        else:
            mapping[torch.tensor(i)[:, None], torch.tensor(j)] = 1 / len(j)
    _in_order(mapping, *(_beginnings(tokens) for tokens in (source, target)))
    _in_order(mapping, *(_endings(tokens) for tokens in (source, target)))
    return _edit(target, mapping, torch.ones(len(target)))


def refined(source: Tokens, target: Tokens) -> TokenEdit:
    """Token by token: what both prompts have in common, in order, takes the source's columns, what is new keeps its own (sec. 3.2).

    Begin and end take those of the same chunk, padding that of the same position; where the source has no padding, it keeps its own.
    """
    ours, theirs = ([i for i, (start, _) in enumerate(tokens.spans) if start >= 0] for tokens in (source, target))
    mapping, matched = torch.zeros(len(source), len(target)), torch.zeros(len(target))
    for j, i in enumerate(longest_common([_identity(source, k) for k in ours], [_identity(target, k) for k in theirs])):
        if i >= 0:
            mapping[ours[i], theirs[j]] = matched[theirs[j]] = 1
    last = len(source) // source.chunk - 1
    for chunk, begin in enumerate(_beginnings(target)):
        (end, *padding), (our_end, *our_padding) = _endings(target, chunk), _endings(source, min(chunk, last))
        pairs = [(min(chunk, last) * source.chunk, begin), (our_end, end), *((j, j) for j in padding if j in our_padding)]
        for i, j in pairs:
            mapping[i, j] = matched[j] = 1
    return _edit(target, mapping, matched)


def longest_common(x: Sequence[Hashable], y: Sequence[Hashable]) -> list[int]:
    """For each item of y its place in x, or -1: Needleman-Wunsch with gap 0, match +1, mismatch -1.

    Of equally good alignments the one that, from the end, leaves items of y alone first, then items of x.
    """
    best = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            diagonal = best[i - 1][j - 1] + (1 if x[i - 1] == y[j - 1] else -1)
            best[i][j] = max(best[i][j - 1], best[i - 1][j], diagonal)
    found, i, j = [-1] * len(y), len(x), len(y)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            found[j] = i
    return found


def _edit(target: Tokens, mapping: Tensor, matched: Tensor) -> TokenEdit:
    return TokenEdit(target, mapping, matched, torch.ones(len(target)), torch.full((len(target), 2), math.nan))


def _identity(tokens: Tokens, i: int) -> Hashable:
    return tokens.ids[i] if tokens.ids[i] >= 0 else tuple(tokens.vectors[-1 - tokens.ids[i]].flatten().tolist())


def _by_word(tokens: Tokens) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in words(tokens.text)]
    for i, word in enumerate(tokens.words):
        if word >= 0:
            found[word].append(i)
    return [positions for positions in found if positions]


def _beginnings(tokens: Tokens) -> list[int]:
    return list(range(0, len(tokens), tokens.chunk))


def _endings(tokens: Tokens, chunk: int | None = None) -> list[int]:
    """End and padding, of a chunk or of all of them."""
    special = [i for i, (start, _) in enumerate(tokens.spans) if start < 0 and i % tokens.chunk]
    return [i for i in special if chunk is None or i // tokens.chunk == chunk]


def _in_order(mapping: Tensor, ours: list[int], theirs: list[int]) -> None:
    """First to first and so on; what is left over of the source goes to the last, what is left over of the target shares the last."""
    for i, position in enumerate(ours):
        mapping[position, theirs[min(i, len(theirs) - 1)]] = 1
    if len(theirs) > len(ours):
        rest = theirs[len(ours) - 1 :]
        mapping[ours[-1], rest] = 1 / len(rest)


# -- what it does to one step --


def columns(edit: TokenEdit, source: Tokens, alpha: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """(B, own) with which the edited map is M_source·B + M_target·own: B [keys, keys], own [keys].

    alpha [target tokens] is 1 where columns are edited: α·c·(a·(M_source A) + (1 − a)·M_target) + (1 − α)·M_target. An axis that repeats
    a shorter prompt's tokens to `keys` shares each column among its repetitions.
    """
    takes = edit.mapping * (alpha * edit.scale * edit.matched)
    own = alpha * edit.scale * (1 - edit.matched) + (1 - alpha)
    for name, tokens in (("source", source), ("target", edit.tokens)):
        if keys % len(tokens):
            raise ValueError(f"{name}: {keys} tokens as this model is told are wanted, the alignment has {len(tokens)}")
    again = keys // len(edit.tokens)
    return takes.repeat(keys // len(source), again) / again, own.repeat(again)
