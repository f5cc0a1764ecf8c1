import torch

from diffusion.guidance import CFG, Conditional, DualCFG
from diffusion.patch import GuideCall, Moment
from diffusion.values import Cond, Conditioning

C = Conditioning((Cond(torch.zeros(1, 2, 3)),))
P, M, N = (torch.full((1, 1, 1, 1), value) for value in (5.0, 3.0, 1.0))


def call(**preds) -> GuideCall:
    return GuideCall(torch.zeros(1, 1, 1, 1), Moment(0, 1, 1.0, 0), preds, lambda c, x: x)


def test_one_branch_is_itself():
    assert list(Conditional(C).branches()) == ["positive"]
    assert Conditional(C).combine(call(positive=P)) is P


def test_classifier_free_guidance_extrapolates_from_negative_to_positive():
    assert CFG(C, C, 2.5).combine(call(positive=P, negative=N)).item() == 1 + 2.5 * (5 - 1)
    assert CFG(C, C, 0.0).combine(call(positive=P, negative=N)).item() == 1


def test_at_scale_one_the_negative_branch_is_not_needed():
    assert CFG(C, C, 1.0).optional() == {"negative"}
    assert CFG(C, C, 1.0).combine(call(positive=P)) is P
    assert CFG(C, C, 1.01).optional() == frozenset()


def test_two_conditionings_are_guided_apart_or_one_inside_the_other():
    preds = {"positive": P, "middle": M, "negative": N}
    assert DualCFG(C, C, C, 2.0, 3.0).combine(call(**preds)).item() == 1 + 3 * (3 - 1) + 2 * (5 - 3)
    assert DualCFG(C, C, C, 2.0, 3.0, nested=True).combine(call(**preds)).item() == 1 + 3 * ((3 + 2 * (5 - 3)) - 1)
    assert set(DualCFG(C, C, C, 2.0, 3.0).branches()) == set(preds)
