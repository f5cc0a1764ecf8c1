import pytest
import torch

from diffusion import conditioning
from diffusion.values import Area, Cond, Conditioning, Mask, Tokens


def cond(length=4, width=3, seed=0, pooled=True, rows=1) -> Conditioning:
    g = torch.Generator().manual_seed(seed)
    tokens = Tokens(
        "a b", (9, 1, 2, 9)[:length], ((-1, -1), (0, 1), (2, 3), (-1, -1))[:length], (-1, 0, 1, -1)[:length], (1.0,) * length, 4
    )
    entry = Cond(
        torch.randn(rows, length, width, generator=g),
        pooled=torch.randn(rows, width, generator=g) if pooled else None,
        tokens=(tokens,) * rows,
    )
    return Conditioning((entry,))


def test_combine_keeps_every_entry():
    a, b = cond(seed=1), cond(seed=2)
    assert conditioning.combine(a, b, a).entries == (*a.entries, *b.entries, *a.entries)


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_average_goes_from_from_to_to(strength):
    a, b = cond(seed=1), cond(seed=2)
    (mixed,) = conditioning.average(a, b, strength).entries
    (x,), (y,) = a, b
    assert torch.equal(mixed.embeds, x.embeds * strength + y.embeds * (1 - strength))
    assert torch.equal(mixed.pooled, x.pooled * strength + y.pooled * (1 - strength))


@pytest.mark.parametrize("length", [2, 4])
def test_average_fits_the_length_of_to(length):
    a, b = cond(seed=1, length=3), cond(seed=2, length=length)
    (mixed,) = conditioning.average(a, b, 0.5).entries
    assert mixed.embeds.shape == (1, 3, 3)
    expected = torch.zeros(1, 3, 3)
    expected[:, : min(3, length)] = b.entries[0].embeds[:, :3]
    assert torch.allclose(mixed.embeds, (a.entries[0].embeds + expected) / 2)


def test_average_takes_the_pooled_vector_that_there_is():
    with_pooled, without = cond(seed=1), cond(seed=2, pooled=False)
    assert torch.allclose(conditioning.average(without, with_pooled, 0.3).entries[0].pooled, with_pooled.entries[0].pooled)
    assert torch.equal(conditioning.average(with_pooled, without, 0.3).entries[0].pooled, with_pooled.entries[0].pooled)
    assert conditioning.average(without, without, 0.3).entries[0].pooled is None


def test_average_and_concat_use_the_first_entry_of_from_for_every_entry_of_to():
    a, b = conditioning.combine(cond(seed=1), cond(seed=2)), conditioning.combine(cond(seed=3), cond(seed=4))
    assert len(conditioning.average(a, b, 0.5)) == 2
    for old, new in zip(a, conditioning.concat(a, b), strict=True):
        assert torch.equal(new.embeds, torch.cat([old.embeds, b.entries[0].embeds], dim=1))
        assert new.pooled is old.pooled


def test_concat_joins_the_tokens():
    (entry,) = conditioning.concat(cond(seed=1), cond(seed=2)).entries
    assert len(entry.tokens[0]) == entry.embeds.shape[1] == 8
    assert entry.tokens[0].text == "a b a b"


def test_concat_of_one_row_and_two():
    (entry,) = conditioning.concat(cond(rows=2), cond(rows=1)).entries
    assert entry.embeds.shape == (2, 8, 3)
    assert entry.tokens == ()


def test_different_encoders_do_not_mix():
    for join in (lambda a, b: conditioning.average(a, b, 0.5), conditioning.concat):
        with pytest.raises(ValueError, match="width 3 and 5"):
            join(cond(width=3), cond(width=5))
        with pytest.raises(ValueError, match="at least one entry"):
            join(cond(), Conditioning(()))


def test_area_mask_strength_and_range_are_set_on_every_entry():
    both = conditioning.combine(cond(), cond())
    for entry in conditioning.set_area(both, 8, 4, 2, 1, 0.5):
        assert (entry.area, entry.strength) == (Area(8, 4, 2, 1), 0.5)
    for entry in conditioning.set_area(both, 0.5, 1.0, 0.5, 0.0, relative=True):
        assert entry.area == Area(0.5, 1.0, 0.5, 0.0, relative=True)
    assert all(entry.area.height == 0 for entry in conditioning.set_area(both, 0.0, 0.0, 0.0, 0.0, relative=True))  # of one cell
    mask = Mask(torch.ones(1, 4, 4))
    for entry in conditioning.set_mask(both, mask, 0.3, bounds=True):
        assert (entry.mask, entry.mask_strength, entry.mask_bounds) == (mask.values, 0.3, True)
    for entry in conditioning.set_timestep_range(both, 0.2, 0.6):
        assert (entry.start, entry.end) == (0.2, 0.6)
    assert all(entry.strength == 2.0 for entry in conditioning.set_strength(both, 2.0))


@pytest.mark.parametrize("box", [(0, 4, 0, 0), (4, 0, 0, 0), (4, 4, -1, 0), (4, 4, 0, -1)])
def test_impossible_areas_are_refused(box):
    with pytest.raises(ValueError, match="area"):
        conditioning.set_area(cond(), *box)


def test_a_range_lies_between_noise_and_clean():
    with pytest.raises(ValueError, match="end"):
        conditioning.set_timestep_range(cond(), 0.0, 1.5)


def test_zero_out_zeroes_embeddings_and_pooled():
    (entry,) = conditioning.zero_out(cond()).entries
    assert not entry.embeds.any()
    assert not entry.pooled.any()


def test_no_function_writes_into_its_inputs():
    a, b = cond(seed=1), cond(seed=2)
    conditioning.average(a, b, 0.5), conditioning.concat(a, b), conditioning.zero_out(a)
    for (entry,) in (a, b):
        assert (entry.embeds._version, entry.pooled._version) == (0, 0)
