import math

import pytest
import torch

from diffusion.samplers.unipc import FLOOR, weights
from diffusion.spacing import sigmas_for


@pytest.mark.parametrize("scale", [-0.7, math.expm1(-0.7)])
def test_weights_integrate_polynomials_exactly(scale):
    """With n >= 2 weights, B sum a_i r_i^(k-1) is the exact moment of degree k over the step, for k = 1 .. n."""
    h, r = 0.7, [-0.9, -2.1, 1.0]
    a = weights(r, h, scale, torch.float64)
    for k in range(1, len(r) + 1):
        lam = torch.linspace(0, 1, 200_001, dtype=torch.float64)  # place in the step
        moment = torch.trapezoid(torch.exp(-h * (1 - lam)) * h * lam**k, lam).item()
        assert -scale * sum(a_i * r_i ** (k - 1) for a_i, r_i in zip(a, r, strict=True)) == pytest.approx(moment, abs=1e-9)


def test_a_single_weight_is_a_half():
    assert weights([-1.3], 0.7, -0.7) == [0.5]
    assert weights([], 0.7, -0.7) == []


def test_the_first_step_is_a_predictor_and_a_corrector_of_order_one(gaussian, run):
    x = torch.tensor([5.0], dtype=torch.float64)
    d_0 = gaussian(x, 8.0)
    predicted = d_0 + (x - d_0) / 2
    d_1 = gaussian(predicted, 4.0)
    corrected = predicted + math.log(2) / 2 * (d_1 - d_0)  # bh1: B = h
    last = d_1 + (corrected - d_1) * 3 / 4
    assert torch.allclose(run("uni_pc", gaussian, x, [8.0, 4.0, 3.0]), last)


@pytest.mark.parametrize("name", ["uni_pc", "uni_pc_bh2"])
def test_a_last_level_of_zero_is_taken_as_the_floor(gaussian, start, run, name):
    x = start(9.0)
    assert torch.allclose(run(name, gaussian, x, [9.0, 4.0, 1.0, 0.0]), run(name, gaussian, x, [9.0, 4.0, 1.0, FLOOR]), atol=1e-12)


def test_the_variants_differ(mixture, start, run):
    x, sigmas = start(9.0), [9.0, 5.0, 3.0, 1.0, 0.3, 0.0]
    assert not torch.allclose(run("uni_pc", mixture, x, sigmas), run("uni_pc_bh2", mixture, x, sigmas))


def test_unipc_beats_the_first_order_at_few_steps(table, mixture, start, run):
    x = start(14.6)
    truth = run("heun", mixture, x, sigmas_for(table, "karras", 400))
    sigmas = sigmas_for(table, "karras", 12, sampler="uni_pc")
    errors = {name: (run(name, mixture, x, sigmas) - truth).abs().mean().item() for name in ("uni_pc", "euler")}
    assert errors["uni_pc"] < errors["euler"] / 2


def test_unknown_variant(run):
    with pytest.raises(ValueError, match="variant"):
        run("uni_pc", None, torch.zeros(1), [1.0, 0.5], variant="bh3")
