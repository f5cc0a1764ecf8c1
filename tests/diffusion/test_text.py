import pytest
import torch

from diffusion.text import encode, encode_tokens, join_tokens, open_text, parse, token_indices, tokenize, words

WORDS = {word: i for i, word in enumerate(("a", "red", "cat", "and", "blue", "dog", "big", "car", "on", "the"))}


class WordEncoder:
    """Every word is a token, and a token's state tells its id, its position, and what came before."""

    def __init__(self, length=77):
        self.length, self.bos, self.eos, self.pad = length, 900, 901, 902

    def split(self, text):
        return [(WORDS.get(text[a:b], 500), (a, b)) for a, b in words(text)]

    def __call__(self, ids, last_layer):
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        states = torch.stack([ids, positions, ids.cumsum(1)], dim=-1).float()
        return states, states[:, 0]


def approx(parts):
    return [(text, pytest.approx(weight)) for text, weight in parts]


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("((red)) car", [("red", 1.21), (" car", 1.0)]),
        ("(red (big:0.5) car)", [("red ", 1.1), ("big", 0.5), (" car", 1.1)]),
        ("((red:1.5))", [("red", 1.5)]),
        ("(a:b) c", [("a:b", 1.1), (" c", 1.0)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(embedding:foo:1.2)", [("embedding:foo", 1.2)]),
        (r"\(literal\) (x)", [("(literal) ", 1.0), ("x", 1.1)]),
        (r"(a \(b\):1.3)", [("a (b)", 1.3)]),
        ("[red] car", [("[red] car", 1.0)]),
        ("(red cat :1.2", [("(red cat :1.2", 1.0)]),
        ("red) cat (", [("red) cat (", 1.0)]),
        ("a (b) c) (d)", [("a ", 1.0), ("b", 1.1), (" c) (d)", 1.0)]),
        ("(c:) (:2) (d:1e1)", [("c:", 1.1), (" ", 1.0), (":2", 1.1), (" ", 1.0), ("d", 10.0)]),
        ("(x:0)", [("x", 0.0)]),
        ("(x:nan)", [("x:nan", 1.1)]),
        ("()", []),
        ("", []),
    ],
)
def test_weights_in_brackets(prompt, parts):
    assert parse(prompt) == approx(parts)


def test_brackets_nest_deeper_than_the_stack():
    depth = 1200
    assert parse("(" * depth + "x:1.5" + ")" * depth) == [("x", 1.5)]


def test_words_are_runs_of_letters_or_of_punctuation():
    text = "A red-brown cat, it's 12!?"
    assert [text[a:b] for a, b in words(text)] == ["A", "red-brown", "cat", ",", "it's", "12", "!?"]


def test_one_chunk_is_begin_words_end_and_padding():
    tokens = tokenize(WordEncoder(8), "a (red:1.3) cat")
    assert tokens.ids == (900, 0, 1, 2, 901, 902, 902, 902)
    assert tokens.weights == (1, 1, 1.3, 1, 1, 1, 1, 1)
    assert tokens.text == "a red cat"
    assert [tokens.text[a:b] for a, b in tokens.spans[1:4]] == ["a", "red", "cat"]
    assert tokens.spans[0] == tokens.spans[4] == (-1, -1)
    assert tokens.words == (-1, 0, 1, 2, -1, -1, -1, -1)


@pytest.mark.parametrize("count", [0, 9, 10, 11, 20, 21])
def test_chunks_hold_the_encoders_length(count):
    tokens = tokenize(WordEncoder(12), " ".join(["cat"] * count))
    chunks = max(1, -(-count // 10))
    assert len(tokens) == 12 * chunks
    assert tokens.ids.count(2) == count
    assert [tokens.ids[i * 12] for i in range(chunks)] == [900] * chunks
    assert tokens.ids.count(901) == chunks


def test_a_short_part_moves_whole_to_the_next_chunk_and_a_long_one_is_cut():
    encoder = WordEncoder(12)
    nine = " ".join(["cat"] * 9)
    kept = tokenize(encoder, f"{nine} (red car:1.2)")
    assert kept.ids[10:15] == (901, 902, 900, 1, 7)
    cut = tokenize(encoder, f"{nine} (red car on the car on the car:1.2)")  # 8 tokens
    assert cut.ids[10:14] == (1, 901, 900, 7)


def test_a_short_part_longer_than_a_tiny_chunk_is_cut():
    tokens = tokenize(WordEncoder(5), "a red cat and big dog")
    assert tokens.ids == (900, 0, 1, 2, 901, 900, 3, 6, 5, 901)


def test_break_is_a_word_unless_asked_for():
    encoder = WordEncoder(6)
    assert len(tokenize(encoder, "a cat BREAK")) == 6
    broken = tokenize(encoder, "a cat BREAK (red:2) dog", breaks=True)
    assert broken.ids == (900, 0, 2, 901, 902, 902, 900, 1, 5, 901, 902, 902)
    assert broken.weights[7] == 2
    assert tokenize(encoder, "BREAK cat BREAK BREAK dog BREAK", breaks=True).ids.count(900) == 3


def test_the_tokens_of_a_word_are_found(clip, device):
    with open_text(clip, device) as encoder:
        tokens = tokenize(encoder, "a Zebra and a (cat:1.4), zebra")
    first, second = token_indices(tokens, "zebra"), token_indices(tokens, "zebra", 1)
    assert len(first) == len(second) == 5  # letters: the tiny vocabulary does not know it
    assert max(first) < min(second)
    assert tokens.words[first[0]] == 1
    assert token_indices(tokens, "cat") == (tokens.weights.index(1.4),)
    assert len(token_indices(tokens, "and a cat")) == 3
    for word, occurrence in (("bra", 0), ("zebra", 2), ("horse", 0)):
        with pytest.raises(ValueError, match=word):
            token_indices(tokens, word, occurrence)
    with pytest.raises(ValueError, match="empty"):
        token_indices(tokens, " ")


def test_joined_tokens_keep_their_words():
    encoder = WordEncoder(6)
    a, b = tokenize(encoder, "red cat"), tokenize(encoder, "blue dog")
    joined = join_tokens(a, b)
    assert joined.text == "red cat blue dog"
    assert token_indices(joined, "dog") == (6 + 2,)
    assert joined.words[8] == 3


def test_weights_act_relative_to_the_empty_prompt():
    encoder = WordEncoder(6)
    plain, _ = encode_tokens(encoder, tokenize(encoder, "red cat"), None, torch.device("cpu"))
    empty, _ = encode_tokens(encoder, tokenize(encoder, ""), None, torch.device("cpu"))
    weighted, _ = encode_tokens(encoder, tokenize(encoder, "(red:1.5) (cat:-1)"), None, torch.device("cpu"))
    assert torch.equal(weighted[0, 1], empty[0, 1] + 1.5 * (plain[0, 1] - empty[0, 1]))
    assert torch.equal(weighted[0, 2], empty[0, 2] - (plain[0, 2] - empty[0, 2]))
    assert torch.equal(weighted[0, 3:], plain[0, 3:])


def test_chunks_are_encoded_apart_and_pooled_is_the_firsts():
    encoder = WordEncoder(5)
    states, pooled = encode_tokens(encoder, tokenize(encoder, "a red cat big dog"), None, torch.device("cpu"))
    assert states.shape == (1, 10, 3)
    assert states[0, 5].tolist() == [900, 0, 900]  # position and history start again
    assert torch.equal(pooled[0], states[0, 0])


def test_encode_gives_states_pooled_and_tokens(clip, device):
    (entry,) = encode(clip, "a red cat", device).entries
    assert entry.embeds.shape == (1, 12, 32)
    assert entry.embeds.dtype == torch.float32
    assert entry.pooled is not None
    assert entry.pooled.shape == (1, 32)
    assert len(entry.tokens[0]) == 12
    assert encode(clip, "a red cat a red cat a red cat a red cat", device).entries[0].embeds.shape == (1, 24, 32)


def test_a_prompt_must_be_text(clip, device):
    with pytest.raises(TypeError, match="string"):
        encode(clip, 3, device)


def test_encoding_moves_no_global_random_state(clip, device):
    state = torch.get_rng_state()
    encode(clip, "a dog", device)
    assert torch.equal(torch.get_rng_state(), state)
