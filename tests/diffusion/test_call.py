import pytest
import torch

from diffusion.call import AttnCall, Moment, Rows, Site, copy_rows

ROWS = Rows((("positive", 0, 4), ("negative", 4, 6)), batch=2, samples=("source", "target"))
INDEX = list(range(6))


def test_branches_samples_and_both_are_named():
    assert INDEX[ROWS["positive"]] == [0, 1, 2, 3]
    assert INDEX[ROWS["negative"]] == [4, 5]
    assert INDEX[ROWS["source"]] == [0, 2, 4]
    assert INDEX[ROWS["target"]] == [1, 3, 5]
    assert INDEX[ROWS["positive", "target"]] == [1, 3]
    assert INDEX[ROWS["negative", 0]] == [4]


def test_what_is_there_can_be_asked():
    assert list(ROWS) == ["positive", "negative", "source", "target"]
    assert "positive" in ROWS
    assert "source" in ROWS
    assert "middle" not in ROWS
    assert len(ROWS) == 6


@pytest.mark.parametrize("name", ["middle", ("positive", "other"), ("middle", "source"), ("positive", 2)])
def test_an_unknown_name_tells_what_there_is(name):
    with pytest.raises(KeyError, match=r"positive|batch has 2"):
        ROWS[name]


def call() -> AttnCall:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(6, 2, 5, 4, generator=g) for _ in range(3))
    return AttnCall(q, k, v, Site("a", "up", 0, 0, False, 1), ROWS, Moment(0, 1, 1.0, 0), 0.5, q.flatten(2), k.flatten(2))


def test_swapping_rows_copies():
    c = call()
    swapped = c.swap_kv(ROWS["source"], ROWS["target"])
    assert torch.equal(swapped.k[ROWS["target"]], c.k[ROWS["source"]])
    assert torch.equal(swapped.v[ROWS["source"]], c.v[ROWS["source"]])
    assert torch.equal(swapped.q, c.q)
    assert (c.k._version, c.v._version) == (0, 0)
    assert torch.equal(c.swap_q(ROWS["source"], ROWS["target"]).q[1], c.q[0])


def test_one_source_row_serves_many():
    x = torch.arange(4.0)[:, None]
    assert copy_rows(x, slice(0, 1), slice(1, 4)).flatten().tolist() == [0, 0, 0, 0]


def test_probabilities_are_the_softmax_with_bias():
    c = call().add_bias(torch.ones(5)).add_bias(torch.tensor([0.0, 0, 0, 0, 2]))
    logits = torch.einsum("rhqd,rhkd->rhqk", c.q, c.k) * 0.5 + torch.tensor([1.0, 1, 1, 1, 3])
    assert torch.allclose(c.probs(), logits.softmax(-1), atol=1e-6)
