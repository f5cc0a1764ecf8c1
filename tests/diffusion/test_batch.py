import dataclasses

import pytest
import torch

from diffusion import batch, conditioning
from diffusion.patch import FeaturePatch
from diffusion.process import Process
from diffusion.values import Cond, Conditioning, Mask

TABLE = Process().table()


def cond(length=4, seed=0, **more) -> Conditioning:
    return Conditioning((Cond(torch.randn(1, length, 3, generator=torch.Generator().manual_seed(seed)), **more),))


def resolve(height=16, width=16, **branches) -> list[batch.Part]:
    return batch.resolve(branches, TABLE, height, width)


def test_a_plain_entry_covers_everything_at_every_level():
    (part,) = resolve(positive=cond())
    assert part.box is None
    assert part.active(0.0)
    assert part.active(1e6)
    assert part.weight(1, 16, 16, torch.device("cpu")).unique().tolist() == [1.0]


def test_an_area_feathers_its_inner_edges_only():
    (part,) = resolve(32, 48, positive=conditioning.set_area(cond(), 32, 40, 0, 8, 2.0))
    weight = part.weight(1, 32, 48, torch.device("cpu"))[0, 0]
    assert part.box == (32, 40, 0, 8)
    assert weight.shape == (32, 40)
    assert torch.allclose(weight[5, :9], torch.tensor([*(2.0 * i / 8 for i in range(1, 9)), 2.0]))
    assert weight[:, -1].unique().tolist() == [2.0]  # at the picture's border


def test_a_small_area_fades_over_a_quarter_of_its_size():
    (part,) = resolve(positive=conditioning.set_area(cond(), 8, 4, 4, 4))
    weight = part.weight(1, 16, 16, torch.device("cpu"))[0, 0]
    assert torch.allclose(weight[:, 2], torch.tensor([0.5, 1, 1, 1, 1, 1, 1, 0.5]))
    assert torch.allclose(weight[4], torch.ones(4))


def test_areas_are_cut_at_the_border_and_fractions_are_of_the_picture():
    (part,) = resolve(16, 24, positive=conditioning.set_area(cond(), 100, 100, 4, 8))
    assert part.box == (12, 16, 4, 8)
    (part,) = resolve(16, 24, positive=conditioning.set_area(cond(), 0.5, 0.25, 0.5, 0.5, relative=True))
    assert part.box == (8, 6, 8, 12)
    with pytest.raises(ValueError, match="outside"):
        resolve(positive=conditioning.set_area(cond(), 8, 8, 16, 0))


def test_a_mask_weighs_by_its_values_without_feather():
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 0.5
    (part,) = resolve(4, 4, positive=conditioning.set_strength(conditioning.set_mask(cond(), Mask(mask), 0.8), 2.0))
    assert torch.allclose(part.weight(1, 4, 4, torch.device("cpu"))[0, 0], mask[0] * 1.6)
    assert part.box is None


def test_a_mask_is_resized_bilinearly():
    mask = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    (part,) = resolve(8, 8, positive=conditioning.set_mask(cond(), Mask(mask)))
    assert torch.equal(part.mask, torch.nn.functional.interpolate(mask[None], (8, 8), mode="bilinear")[0])


def test_mask_bounds_crop_to_the_mask_but_not_below_eight_cells():
    mask = torch.zeros(1, 32, 32)
    mask[:, 3:20, 10:13] = 1
    (part,) = resolve(32, 32, positive=conditioning.set_mask(cond(), Mask(mask), bounds=True))
    assert part.box == (17, 8, 3, 10)
    assert part.weight(1, 32, 32, torch.device("cpu"))[0, 0, :, :3].unique().tolist() == [1.0]
    (part,) = resolve(32, 32, positive=conditioning.set_mask(cond(), Mask(mask * 0), bounds=True))
    assert part.box == (8, 8, 0, 0)


def test_a_time_range_is_a_range_of_noise_levels():
    (part,) = resolve(positive=conditioning.set_timestep_range(cond(), 0.2, 0.5))
    high, low = TABLE.percent_to_sigma(0.2), TABLE.percent_to_sigma(0.5)
    assert [part.active(s) for s in (high * 1.01, high, (high + low) / 2, low, low * 0.99)] == [False, True, True, True, False]


def test_an_area_gets_its_counterpart_in_the_other_branch():
    positive = conditioning.combine(cond(seed=1), conditioning.set_area(cond(seed=2), 8, 8, 0, 8, 0.7))
    negative = cond(seed=3)
    parts = resolve(positive=positive, negative=negative)
    assert [(p.branch, p.box) for p in parts] == [
        ("positive", None),
        ("positive", (8, 8, 0, 8)),
        ("negative", None),
        ("negative", (8, 8, 0, 8)),
    ]
    assert parts[3].entry.embeds is negative.entries[0].embeds
    assert parts[3].entry.strength == 0.7


def test_a_counterpart_keeps_the_control_of_the_area():
    control = FeaturePatch()
    here = conditioning.set_area(cond(seed=2, patches=(control,)), 8, 8, 0, 8)
    negative = cond(seed=3)
    counterpart = resolve(positive=here, negative=negative)[-1]
    assert counterpart.branch == "negative"
    assert counterpart.entry.patches == (control,)
    assert counterpart.entry.embeds is negative.entries[0].embeds


def test_no_counterpart_where_the_other_branch_has_that_area():
    a, b = (conditioning.set_area(cond(seed=s), 8, 8, 0, 8) for s in (1, 2))
    assert len(resolve(positive=a, negative=b)) == 2


def test_areas_that_cover_the_picture_are_told_apart_by_what_lies_outside_of_it():
    """A larger one is another area, for which there has to be a counterpart; both are cut at the border afterwards."""
    here, there = conditioning.set_area(cond(seed=1), 16, 40, 0, 0), conditioning.set_area(cond(seed=2), 1.0, 1.0, 0, 0, relative=True)
    parts = resolve(positive=here, negative=conditioning.combine(cond(seed=3), there))
    assert [(p.branch, p.box) for p in parts] == [
        ("positive", (16, 16, 0, 0)),
        ("positive", (16, 16, 0, 0)),
        ("negative", None),
        ("negative", (16, 16, 0, 0)),
        ("negative", (16, 16, 0, 0)),
    ]


def test_the_counterpart_comes_from_the_smallest_area_around():
    small = conditioning.set_area(cond(seed=1), 4, 4, 2, 2)
    around = conditioning.combine(
        cond(seed=2), conditioning.set_area(cond(seed=3), 12, 12, 0, 0), conditioning.set_area(cond(seed=4), 8, 8, 0, 0)
    )
    parts = resolve(positive=small, negative=around)
    twin = next(p for p in parts if p.branch == "negative" and p.box == (4, 4, 2, 2))
    assert twin.entry.embeds is around.entries[2].embeds


def test_parts_of_one_crop_share_a_batch_and_others_do_not():
    positive = conditioning.combine(cond(seed=1), conditioning.set_area(cond(seed=2), 8, 8, 0, 8))
    groups = batch.group(resolve(positive=positive, negative=cond(seed=3)), mix_lengths=True)
    assert [[p.branch for p in members] for members in groups] == [["positive", "negative"]] * 2


def test_different_patches_do_not_share_a_batch():
    class Quiet(FeaturePatch):
        pass

    quiet = Quiet()
    parts = resolve(a=cond(), b=cond(patches=(quiet,)), c=cond(patches=(quiet,)), d=cond(patches=(Quiet(),)))
    assert [len(members) for members in batch.group(parts, mix_lengths=True)] == [1, 2, 1]


@pytest.mark.parametrize(
    ("lengths", "mix", "groups"), [((4, 8), True, 1), ((4, 8), False, 2), ((4, 6), True, 1), ((4, 20), True, 2), ((4, 4), False, 1)]
)
def test_token_axes_share_up_to_four_repeats(lengths, mix, groups):
    parts = resolve(**{f"b{i}": cond(length=n, seed=i) for i, n in enumerate(lengths)})
    assert len(batch.group(parts, mix)) == groups


def test_repeated_token_axes_hold_every_token_equally_often():
    parts = resolve(a=cond(length=4, seed=1), b=cond(length=6, seed=2))
    context = batch.contexts([part.entry.embeds for part in parts], 2, torch.device("cpu"))
    assert context.shape == (4, 12, 3)
    assert torch.equal(context[0], parts[0].entry.embeds[0].repeat(3, 1))
    assert torch.equal(context[2], parts[1].entry.embeds[0].repeat(2, 1))


def test_embeddings_may_differ_from_step_to_step():
    (part,) = resolve(a=cond(per_step=torch.arange(6.0).view(3, 1, 2, 1).expand(3, 1, 2, 3)))
    assert batch.embeds(part.entry, 2).unique().tolist() == [4.0, 5.0]
    assert batch.embeds(part.entry, -1) is part.entry.embeds
    with pytest.raises(ValueError, match="3 steps"):
        batch.embeds(part.entry, 3)


def test_rows_repeat_in_turn_or_are_cut():
    x = torch.arange(3.0)[:, None]
    assert batch.repeat_to(x, 5).flatten().tolist() == [0, 1, 2, 0, 1]
    assert batch.repeat_to(x, 2).flatten().tolist() == [0, 1]


def test_overlapping_entries_are_averaged_by_weight_and_nothing_is_zero():
    like = torch.zeros(1, 2, 8, 8)
    left = conditioning.set_area(cond(seed=1), 8, 4, 0, 0)
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 3.0
    parts = resolve(8, 8, a=conditioning.combine(left, conditioning.set_mask(cond(seed=2), Mask(mask))))
    out = batch.average(parts, [torch.full((1, 2, 8, 4), 1.0), torch.full((1, 2, 8, 8), 5.0)], like)
    assert torch.allclose(out[..., :4, :3], torch.tensor((1 * 1 + 3 * 5) / 4))
    assert torch.allclose(out[..., :4, 4:], torch.tensor(5.0))
    assert torch.allclose(out[..., 4:, :3], torch.tensor(1.0))
    assert not out[..., 4:, 4:].any()
    assert not like.any()


def test_resolving_writes_into_nothing():
    mask = torch.ones(1, 4, 4)
    entry = conditioning.set_mask(cond(), Mask(mask), 0.5)
    (part,) = resolve(4, 4, a=entry)
    part.weight(3, 4, 4, torch.device("cpu"))
    batch.average([part], [torch.ones(1, 1, 4, 4)], torch.zeros(1, 1, 4, 4))
    assert mask._version == 0
    assert dataclasses.is_dataclass(part)
