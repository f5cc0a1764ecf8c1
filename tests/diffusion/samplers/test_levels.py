import itertools
import math

import pytest
import torch

from diffusion.samplers.euler import ancestral
from diffusion.samplers.levels import level_between, level_mixed, log_snr, lower
from diffusion.spacing import sigmas_for


@pytest.mark.parametrize("between", [level_between, level_mixed])
@pytest.mark.parametrize("r", [0.25, 0.5, 1.0])
def test_a_share_of_a_step_is_a_share_of_its_logarithm(between, r):
    assert between(9.0, 4.0, r) == pytest.approx(9.0 ** (1 - r) * 4.0**r, rel=1e-6)


def test_lower_is_the_level_that_ancestral_steps_go_down_to():
    for sigma, sigma_next, eta in ((4.0, 2.0, 1.0), (9.0, 7.0, 0.5), (2.0, 0.3, 0.0)):
        assert lower(sigma, sigma_next, eta) == pytest.approx(ancestral(sigma, sigma_next, eta)[0], rel=1e-6)
    assert lower(4.0, 2.0, 100.0) == 0.0
    assert lower(14.6, 0.001, 1.0) == 0.0  # too little to be told from nothing in float32: the step goes to the denoised state


def test_the_stage_lies_where_float32_logarithms_put_it():
    """To the last bit: the noise of a Brownian path is another one beside it."""
    sigma, sigma_next = torch.tensor(9.102905), torch.tensor(5.478438)
    lam, lam_next = sigma.log().neg(), sigma_next.log().neg()
    assert log_snr(sigma.item()).item() == lam.item()
    assert level_between(sigma.item(), sigma_next.item(), 0.5) == (lam + 0.5 * (lam_next - lam)).neg().exp().item()
    assert level_mixed(sigma.item(), sigma_next.item(), 1.0) == lam_next.neg().exp().item()


# measured with torch 2.13: the timesteps nearest to exp(lerp(log sigma, log sigma_down, 1/2)), all in float32
STAGES = [832, 666, 500, 333, 166]


def test_a_stage_half_way_between_two_timesteps_goes_where_comfyui_sends_it(table):
    """With eta = 1 the stage of dpm_2_ancestral lies on the next level, here on timesteps 832.5, 666, 499.5, 333 and 166.5."""
    sigmas = sigmas_for(table, "normal", 7).tolist()[:-1]
    told = [table.t(level_mixed(a, lower(a, b, 1.0), 0.5)) for a, b in itertools.pairwise(sigmas)][:5]
    assert told == STAGES
    assert table.t(math.sqrt(sigmas[0] * ancestral(sigmas[0], sigmas[1], 1.0)[0])) == 833  # the same level with more digits
