import pytest
import torch

from diffusion.values import Sigmas
from nodes import sigmas as made
from nodes.sigmas import BasicScheduler, FlipSigmas, KarrasScheduler, SetFirstSigma, SplitSigmas, SplitSigmasDenoise

# ten steps on Stable Diffusion's table, measured on ComfyUI 0.8
TEN = {
    "normal": "14.6146 7.8399 4.6092 2.9183 1.9502 1.3449 .9324 .6250 .3687 .0292 0",
    "karras": "14.6146 9.1029 5.4784 3.1686 1.7494 .9141 .4469 .2014 .0819 .0292 0",
    "exponential": "14.6146 7.3249 3.6712 1.84 .9222 .4622 .2317 .1161 .0582 .0292 0",
    "beta": "14.6146 11.5428 7.3718 4.3728 2.6152 1.6183 1.0273 .6549 .3955 .1991 0",
}
TURBO = "14.6146 8.3028 5.0878 3.3211 0"
HALF_KARRAS = "1.0908 .7909 .5647 .3964 .2730 .1842 .1213 .0779 .0485 .0292 0"


def close(sigmas: Sigmas, wanted: str) -> bool:
    expected = torch.tensor([float(value) for value in wanted.split()])
    return sigmas.values.shape == expected.shape and torch.allclose(sigmas.values, expected, atol=2e-4)


@pytest.mark.parametrize("name", TEN)
def test_the_basic_scheduler_gives_the_levels_of_saved_graphs(ctx, model, name):
    assert close(BasicScheduler(model=model, scheduler=name, steps=10).run(ctx), TEN[name])


def test_denoise_keeps_the_clean_end_of_a_longer_list(ctx, model):
    assert close(BasicScheduler(model=model, scheduler="karras", steps=10, denoise=0.5).run(ctx), HALF_KARRAS)
    assert len(BasicScheduler(model=model, scheduler="karras", steps=10, denoise=0.0).run(ctx)) == 0
    for steps in (3, 7, 13):  # where ddim_uniform alone would give more
        assert len(BasicScheduler(model=model, scheduler="ddim_uniform", steps=steps).run(ctx)) == steps + 1


def test_schedulers_without_a_model_agree_with_its_own_range(ctx, model):
    assert close(KarrasScheduler(steps=10).run(ctx), TEN["karras"])
    assert close(made.ExponentialScheduler(steps=10).run(ctx), TEN["exponential"])
    assert close(made.PolyexponentialScheduler(steps=10).run(ctx), TEN["exponential"])
    assert close(made.BetaSamplingScheduler(model=model, steps=10).run(ctx), TEN["beta"])
    assert close(made.SDTurboScheduler(model=model, steps=4).run(ctx), TURBO)


def test_laplace_and_vp_stay_in_their_ranges(ctx):
    laplace = made.LaplaceScheduler(steps=9).run(ctx).values
    assert len(laplace) == 9
    assert bool((laplace.diff() <= 0).all())
    assert laplace[4].item() == pytest.approx(1.0, rel=1e-3)  # the middle of log sigma is mu
    vp = made.VPScheduler(steps=9).run(ctx).values
    assert len(vp) == 10
    assert vp[-1] == 0
    assert bool((vp.diff() < 0).all())


def test_levels_that_cannot_be_are_refused(ctx):
    with pytest.raises(ValueError, match=r"levels above 0 are wanted, 14\.6 and 0\.0 given"):
        made.ExponentialScheduler(sigma_max=14.6, sigma_min=0.0).run(ctx)
    with pytest.raises(ValueError, match="rho: a number above 0 is wanted"):
        KarrasScheduler(rho=0).run(ctx)


def test_align_your_steps_has_the_published_levels_and_goes_log_linearly_between_them(ctx):
    ten = made.AlignYourStepsScheduler().run(ctx)
    assert close(ten, "14.6146 6.4746 3.8637 2.6946 1.8842 1.3944 .9643 .6524 .3977 .1515 0")
    twenty = made.AlignYourStepsScheduler(model_type="SDXL", steps=20).run(ctx).values
    assert len(twenty) == 21
    assert torch.allclose(twenty[::2][:-1], made.AlignYourStepsScheduler(model_type="SDXL").run(ctx).values[:-1])
    assert torch.allclose(twenty[1:19:2] ** 2, twenty[0:18:2] * twenty[2:20:2], rtol=1e-5)
    half = made.AlignYourStepsScheduler(denoise=0.5).run(ctx)
    assert torch.equal(half.values, ten.values[-6:])
    assert len(made.AlignYourStepsScheduler(denoise=0.0).run(ctx)) == 0
    assert made.AlignYourStepsScheduler(model_type="SVD", steps=1).run(ctx).values.tolist() == [700, 0]


LEVELS = Sigmas(torch.tensor([10.0, 8, 6, 4, 2, 0]))


def test_a_split_shares_the_level_at_the_cut(ctx):
    high, low = SplitSigmas(sigmas=LEVELS, step=2).run(ctx)
    assert (high.values.tolist(), low.values.tolist()) == ([10, 8, 6], [6, 4, 2, 0])


def test_a_split_by_denoise_leaves_that_share_of_the_steps(ctx):
    high, low = SplitSigmasDenoise(sigmas=LEVELS, denoise=0.4).run(ctx)
    assert (high.values.tolist(), low.values.tolist()) == ([10, 8, 6, 4], [4, 2, 0])
    high, low = SplitSigmasDenoise(sigmas=LEVELS, denoise=1.0).run(ctx)
    assert (high.values.tolist(), low.values.tolist()) == ([10], LEVELS.values.tolist())


def test_flipped_levels_rise_from_almost_zero(ctx):
    values = FlipSigmas(sigmas=LEVELS).run(ctx).values
    assert values.tolist() == pytest.approx([1e-4, 2, 4, 6, 8, 10])
    assert LEVELS.values[-1] == 0
    assert len(FlipSigmas(sigmas=Sigmas(torch.zeros(0))).run(ctx)) == 0


def test_the_first_level_can_be_set(ctx):
    assert SetFirstSigma(sigmas=LEVELS, sigma=136.0).run(ctx).values.tolist() == [136, 8, 6, 4, 2, 0]
