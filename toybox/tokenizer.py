"""The tokenizer: CLIP's byte-pair scheme, with merges laid so that every word of the little language is one token."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from toybox.captions import MEDIA, PRAISE, SYNONYMS
from toybox.scenes import COLORS, HELD_OUT_SHAPES, HELD_OUT_TEXTURES, SHAPES, TEXTURES

CONTEXT = 32
START, END = "<|startoftext|>", "<|endoftext|>"
UNTRAINED = ("sks", "ktn", "pll", "ucd", "zwx", "olis")

GRAMMAR = """
a an the and on in at of to with against over under above below left right top bottom center middle side corner next flat outlined plain
background shape object
"""
# Never in a training caption, but ready for fine-tuning, instructions and new concepts.
LATER = """
make turn change convert into it its this that is are be replace remove delete erase add put place move swap shift keep draw paint fill
edit color recolor style look like as more less bigger smaller larger brighter darker lighter thicker thinner up down away from for by
and then without not no one two three both other same different new old all every very
texture pattern wash sepia posterized poster sketch ink grain paper outline line lines edge edges stroke strokes mask image photo
split bead beads beaded moon sun crescent arrow zigzag triangle pentagon oval wave wavy grid stripes dots checks
brown gray grey cyan magenta teal lime navy silver gold colorful monochrome pale deep vivid dark light
subject thing item toy figure picture scene world front behind inside outside around between near far upper lower
good bad best ugly blurry sharp noisy quality high low detailed art artwork render rendering illustration icon logo
he she they we you i my your his her our was were has have do does did can will should would please show me
"""


def vocabulary() -> tuple[str, ...]:
    """Every word that is one token, in the fixed order in which merges are laid."""
    words = GRAMMAR.split() + list(COLORS) + list(SHAPES) + ["small", "large"] + list(TEXTURES)
    words += [w for group in SYNONYMS.values() for w in group] + list(MEDIA) + list(PRAISE)
    words += list(HELD_OUT_SHAPES) + list(HELD_OUT_TEXTURES) + list(UNTRAINED)
    words += LATER.split()
    return tuple(dict.fromkeys(words))


def byte_symbols() -> list[str]:
    """CLIP's printable stand-ins for the 256 bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def merges_for(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merges that join each word whole. A later merge ranks lower, so it cannot disturb a word laid before."""
    rank: dict[tuple[str, str], int] = {}
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            best = min(pairs, key=lambda pair: rank.get(pair, len(rank) + 1))
            rank.setdefault(best, len(rank))
            symbols = _join(symbols, best)
    return list(rank)


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for s in symbols:
        if out and (out[-1], s) == pair:
            out[-1] += s
        else:
            out.append(s)
    return out


def build() -> CLIPTokenizer:
    """The tokenizer itself: bytes, bytes that end a word, merges, start, end; the end also pads and stands for the unknown."""
    symbols, merges = byte_symbols(), merges_for(vocabulary())
    entries = [*symbols, *(s + "</w>" for s in symbols), *dict.fromkeys(a + b for a, b in merges), START, END]
    vocab = {entry: i for i, entry in enumerate(entries)}
    return CLIPTokenizer(
        vocab=vocab, merges=merges, bos_token=START, eos_token=END, unk_token=END, pad_token=END, model_max_length=CONTEXT
    )  # fmt: skip


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write tokenizer.json and, for readers of the older layout, vocab.json and merges.txt."""
    tokenizer.save_pretrained(folder)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    (folder / "vocab.json").write_text(json.dumps(dict(vocab), ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges_for(vocabulary()))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
