"""What every sampler gives for a seed, by a transcription of ComfyUI 0.8's rules in its float32 operations that shares no code with ours.

known_numbers.json has them: by levels and sampler three of sixteen, the noise of Brownian paths from torchsde 0.2.6. The denoiser is told
the nearest timestep, as a network is: the levels of "normal" for 7 steps and "sgm_uniform" for 6 lie half-way between two.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from diffusion.noise import noise_to_level, prepare_noise
from diffusion.samplers import SAMPLERS, noise_source
from diffusion.spacing import advanced_range, sigmas_for

KNOWN = json.loads(Path(__file__).with_name("known_numbers.json").read_text())
SEED, PICKS = 42, (0, 7, 15)


@pytest.mark.parametrize("levels", KNOWN)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_numbers_of_a_seed(table, mixture, gaussian, run, name, levels):
    spacing, steps, taken = levels.split("|")
    sigmas = advanced_range(sigmas_for(table, spacing, int(steps), sampler=name), 0, int(taken), leftover_noise=True)
    drawn = prepare_noise((1, 1, 4, 4), SEED)
    x = noise_to_level(torch.zeros_like(drawn), drawn, sigmas[0].item(), table.sigma_max)

    def denoise(x, sigma):
        return mixture(x, sigma) + 0.1 * math.sin(table.t(sigma))

    found = run(name, denoise, x, sigmas, noise_source(name, SEED, x, sigmas.tolist()), gaussian).flatten()
    assert found[list(PICKS)].tolist() == pytest.approx(KNOWN[levels][name], abs=1e-5 * found.abs().max().item())
