"""Alignments against tables made by hand, and the laws of what they do to attention maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.pair import stacked
from diffusion.text import encode, open_text, tokenize
from diffusion.token_alignment import align, columns, longest_common, refined, replaced
from diffusion.values import Conditioning

VOCABULARY = ["a", "red", "cat", "fox", "on"]


@pytest.fixture(scope="module")
def read(clip, device):
    """Tokens of a text; a word outside of the small vocabulary has a token a letter."""

    def read(text):
        with open_text(clip, device) as encoder:
            return tokenize(encoder, text)

    return read


@pytest.mark.parametrize(
    ("x", "y", "found"),
    [
        ("abc", "abc", [0, 1, 2]),
        ("ac", "abc", [0, -1, 1]),  # insert
        ("abc", "ac", [0, 2]),  # delete
        ("abc", "axc", [0, -1, 2]),  # swap: a mismatch never aligns
        ("aba", "a", [0]),  # of two, the traceback leaves the later one of x alone last: the first is taken
        ("a", "aba", [0, -1, -1]),  # and of y, too
        ("", "ab", [-1, -1]),
        ("abcd", "bdx", [1, 3, -1]),
    ],
)
def test_longest_common_matches_tables_made_by_hand(x, y, found):
    assert longest_common(x, y) == found


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_longest_common_is_increasing_matches_equals_and_is_as_long_as_can_be(x, y):
    found = longest_common(x, y)
    taken = [i for i in found if i >= 0]
    assert taken == sorted(set(taken))
    assert all(x[i] == y[j] for j, i in enumerate(found) if i >= 0)
    length = [[0] * (len(y) + 1) for _ in range(len(x) + 1)]
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            length[i + 1][j + 1] = max(length[i][j + 1], length[i + 1][j], length[i][j] + (a == b))
    assert len(taken) == length[-1][-1]


def test_the_same_prompt_is_aligned_one_to_one(read):
    tokens = read("a red cat on the table")
    for how in (replaced, refined):
        edit = how(tokens, tokens)
        assert torch.equal(edit.mapping, torch.eye(12))
        assert edit.matched.all()


def test_a_swapped_word_of_as_many_tokens_takes_the_place_of_the_old_one(read):
    assert torch.equal(replaced(read("a red cat"), read("a blue cat")).mapping, torch.eye(12))


def test_a_swapped_word_of_other_length_shares_and_what_follows_moves(read):
    source, target = read("a cat on"), read("a fox on")  # fox: f o x
    assert [i for i, word in enumerate(target.words) if word == 1] == [2, 3, 4]
    mapping = replaced(source, target).mapping
    # the rule: Σ source tokens / number of target tokens
    torch.testing.assert_close(mapping[2], torch.tensor([0, 0, 1 / 3, 1 / 3, 1 / 3, *[0] * 7]))
    assert mapping[3, 5] == 1  # on → on, two positions later
    assert mapping[4, 6] == 1  # end → end
    back = replaced(target, source).mapping
    assert back[[2, 3, 4], 2].tolist() == [1, 1, 1]
    assert back[5, 3] == 1


@pytest.mark.parametrize(("a", "b"), [("a cat on", "a fox on"), ("fox", "a" * 14), ("a red cat", "a blue dog")])
def test_replacing_keeps_the_sum_of_a_querys_probabilities(read, a, b):
    for source, target in ((a, b), (b, a)):
        torch.testing.assert_close(replaced(read(source), read(target)).mapping.sum(1), torch.ones(len(read(source))))


def test_prompts_of_different_numbers_of_words_cannot_be_replaced(read):
    with pytest.raises(ValueError, match=r"mode: replace wants as many words in target as in source, 4 and 3 given"):
        replaced(read("a red cat"), read("a big red cat"))


def test_refining_keeps_what_is_common_and_marks_what_is_new(read):
    edit = refined(read("a cat on the table"), read("a big cat on the wood table"))
    found = [edit.mapping[:, j].nonzero().flatten().tolist() for j in range(12)]
    assert found == [[0], [1], [], [2], [3], [4], [], [5], [6], [7], [8], [11]]  # table has three tokens
    assert edit.matched.tolist() == [1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_padding_where_the_source_has_words_keeps_its_own(read):
    edit = refined(read("a big red cat"), read("a cat"))
    assert [edit.mapping[:, j].nonzero().flatten().tolist() for j in range(7)] == [[0], [1], [4], [5], [], [], [6]]


def test_repeated_words_and_words_of_several_tokens_are_told_apart(read):
    edit = refined(read("a cat and a fox"), read("a cat and a big fox"))
    assert [edit.mapping[:, j].nonzero().flatten().tolist() for j in range(10)] == [[0], [1], [2], [3], [4], [], [5], [6], [7], [8]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=8), st.lists(st.sampled_from(VOCABULARY), max_size=8))
def test_a_column_that_is_taken_has_one_source_and_one_that_is_not_has_none(read, a, b):
    edit = refined(read(" ".join(a)), read(" ".join(b)))
    assert torch.equal(edit.mapping.sum(0), edit.matched)


def pair(clip, device, source, *targets):
    positive = encode(clip, source, device)
    for target in targets:
        positive = stacked(positive, encode(clip, target, device))
    return positive


def test_words_are_scaled_and_windowed_in_the_targets_that_have_them(clip, device):
    alignment = align(pair(clip, device, "a cat", "a red cat", "a blue cat"), "refine")
    red, blue = alignment.scaled("red", 3.0).windowed("red", 0.25, 0.5).targets
    assert red.scale.tolist() == [1, 1, 3, *[1] * 9]
    assert red.window[2].tolist() == [0.25, 0.5]
    assert red.window.isnan().sum() == 22
    assert blue is alignment.targets[1]
    with pytest.raises(ValueError, match="'green' 0 times"):
        alignment.scaled("green", 2.0)


@pytest.mark.parametrize(
    ("positive", "message"),
    [
        (lambda p: Conditioning((*p.entries, *p.entries)), "positive: one entry is wanted"),
        (lambda p: p.map(tokens=()), "positive: encoded prompts are wanted"),
        (lambda p: p.map(tokens=p.entries[0].tokens[:1]), "positive: a source and a target are wanted"),
    ],
)
def test_what_cannot_be_aligned_is_told(clip, device, positive, message):
    with pytest.raises(ValueError, match=message):
        align(positive(pair(clip, device, "a cat", "a dog")), "refine")


def test_columns_are_the_papers_formula(read):
    source, target = read("a cat on"), read("a big fox on")
    generator = torch.Generator().manual_seed(3)
    m, own_m = torch.rand(2, 5, 12, generator=generator).softmax(-1)
    alpha, scale = (torch.rand(12, generator=generator) < 0.6).float(), torch.rand(12, generator=generator)
    edit = replace(refined(source, target), scale=scale)
    b, own = columns(edit, source, alpha, 12)
    taken = torch.zeros(5, 12)
    for j in range(12):
        i = edit.mapping[:, j].argmax()
        changed = scale[j] * (m[:, i] if edit.matched[j] else own_m[:, j])
        taken[:, j] = alpha[j] * changed + (1 - alpha[j]) * own_m[:, j]
    torch.testing.assert_close(m @ b + own_m * own, taken)


def test_a_repeated_axis_gives_the_attention_of_the_plain_one(read):
    source, long = read("a cat"), read("a red cat and a big dog")
    assert (len(source), len(long)) == (12, 12)
    edit = refined(source, long)
    alpha = torch.ones(12)
    m, own_m, v = torch.rand(5, 12).softmax(-1), torch.rand(5, 12).softmax(-1), torch.rand(12, 3)
    b, own = columns(edit, source, alpha, 12)
    plain = (m @ b + own_m * own) @ v
    b, own = columns(edit, source, alpha, 24)
    again = (m.repeat(1, 2) / 2 @ b + own_m.repeat(1, 2) / 2 * own) @ v.repeat(2, 1)
    torch.testing.assert_close(again, plain)
    with pytest.raises(ValueError, match="source: 18 tokens as this model is told are wanted, the alignment has 12"):
        columns(edit, source, alpha, 18)
