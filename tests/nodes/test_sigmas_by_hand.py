import pytest
import torch

from diffusion.values import Sigmas
from nodes.sigmas_by_hand import ExtendIntermediateSigmas, ManualSigmas, SamplingPercentToSigma

LEVELS = Sigmas(torch.tensor([10.0, 8, 4, 0]))


@pytest.mark.parametrize("text", ["14.6, 2.5,0.1 0", "14.6; 2.5 .1\n0", "[14.6, 2.50, 1e-1, 0.0]"])
def test_levels_are_read_from_text(ctx, text):
    assert ManualSigmas(sigmas=text).run(ctx).values.tolist() == pytest.approx([14.6, 2.5, 0.1, 0])


def test_no_text_is_no_level(ctx):
    assert len(ManualSigmas(sigmas=" ").run(ctx)) == 0


@pytest.mark.parametrize("word", ["-1", "two", "nan", "inf"])
def test_what_is_no_level_is_named(ctx, word):
    with pytest.raises(ValueError, match=f"sigmas: numbers of 0 or more are wanted, '{word}' given"):
        ManualSigmas(sigmas=f"3, {word}, 0").run(ctx)


def extended(ctx, **options):
    return ExtendIntermediateSigmas(sigmas=LEVELS, **options).run(ctx).values.tolist()


def test_steps_are_cut_where_they_leave_a_level_of_the_range(ctx):
    assert extended(ctx, steps=2, end_at_sigma=0.0) == [10, 9, 8, 6, 4, 2, 0]
    assert extended(ctx, steps=2, end_at_sigma=5.0) == [10, 9, 8, 6, 4, 0]
    assert extended(ctx, steps=4, start_at_sigma=8.0, end_at_sigma=8.0) == [10, 8, 7, 6, 5, 4, 0]
    assert extended(ctx, steps=2) == [10, 8, 4, 0]  # the default range lies above
    assert extended(ctx, steps=1, end_at_sigma=0.0) == [10, 8, 4, 0]


def test_the_cuts_lie_closer_to_one_end_or_the_other(ctx):
    at = {spacing: extended(ctx, steps=2, start_at_sigma=8.0, end_at_sigma=8.0, spacing=spacing)[2] for spacing in ("cosine", "sine")}
    assert at == {"cosine": pytest.approx(8 - 4 * 0.5**0.5), "sine": pytest.approx(8 - 4 * (1 - 0.5**0.5))}


def test_no_levels_stay_none(ctx):
    assert len(ExtendIntermediateSigmas(sigmas=Sigmas(torch.zeros(0))).run(ctx)) == 0


@pytest.mark.parametrize(
    ("percent", "actual", "sigma"),
    [(0.2, False, 5.0924), (0.5, True, 1.6156), (0.0, False, 999999999.9), (1.0, False, 0.0), (0.0, True, 14.6146), (1.0, True, 0.0292)],
)
def test_a_share_of_the_way_is_a_level(ctx, model, percent, actual, sigma):
    node = SamplingPercentToSigma(model=model, sampling_percent=percent, return_actual_sigma=actual)
    assert node.run(ctx).sigma_value == pytest.approx(sigma, abs=1e-4)
