"""The little language's tokenizer."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from toybox import tokenizer as tokens
from toybox.captions import caption
from toybox.scenes import sample


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return tokens.build()


def test_every_word_of_the_vocabulary_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for word in tokens.vocabulary():
        assert len(tokenizer.tokenize(word)) == 1, word
    assert {"sks", "ktn", "pll", "ucd", "zwx", "olis", "crescent", "arrow", "zigzag", "make", "replace", "photo"} <= set(
        tokens.vocabulary()
    )


def test_captions_are_one_token_a_word_at_the_words_own_places(tokenizer: CLIPTokenizer) -> None:
    for seed in range(300):
        said = caption(sample(seed), seed)
        encoded = tokenizer(said.text, return_offsets_mapping=True)
        assert [tuple(span) for span in encoded.offset_mapping[1:-1]] == [(a, b) for a, b, _ in said.words]
        assert len(encoded.input_ids) <= tokens.CONTEXT


def test_anything_can_be_said(tokenizer: CLIPTokenizer) -> None:
    text = "a pentagram, 12 “quoted” red-ish things; naïve!"
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids[1:-1]


def test_start_end_and_padding_are_set(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a star", padding="max_length").input_ids
    assert len(ids) == tokenizer.model_max_length == 32
    assert ids[0] == tokenizer.bos_token_id == len(tokenizer) - 2
    assert set(ids[3:]) == {tokenizer.eos_token_id} == {tokenizer.pad_token_id} == {len(tokenizer) - 1}


def test_both_layouts_read_back_alike(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokens.save(tokenizer, tmp_path)
    text = "a large red star, left of 3 zigzags"
    new = CLIPTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    old = CLIPTokenizer.from_pretrained(tmp_path)
    assert new(text).input_ids == old(text).input_ids == tokenizer(text).input_ids
    assert new.model_max_length == old.model_max_length == 32
