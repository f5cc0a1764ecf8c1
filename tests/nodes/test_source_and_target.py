"""Two prompts side by side in one batch."""

import torch

from diffusion.guidance import CFG
from diffusion.sample import sample
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas
from nodes.source_and_target import SourceAndTarget


def test_each_row_is_what_its_prompt_alone_gives_from_the_same_noise(ctx, model, red, blue, device):
    start = Latent(torch.zeros(1, 4, 8, 8), batch_index=(2,))

    def run(positive, latent):
        guider, levels = Guider(model, CFG(positive, blue, 2.0)), Sigmas(torch.tensor([10.0, 2.0, 0.0]))
        return sample(guider, Noise(5), Sampler.of("euler"), levels, latent, device)[0].x

    pair = SourceAndTarget(samples=start, source=red, target=blue).run(ctx)
    assert pair.latent.batch_index == (2, 2)
    both = run(pair.positive, pair.latent)
    torch.testing.assert_close(both, torch.cat([run(red, start), run(blue, start)]), atol=1e-4, rtol=1e-4)
    further = SourceAndTarget(samples=start, source=pair.positive, target=red).run(ctx)
    assert len(further.latent.x) == 3
    torch.testing.assert_close(run(further.positive, further.latent)[:2], both, atol=1e-4, rtol=1e-4)


def test_a_noise_mask_and_the_first_of_a_batch_go_along(ctx, red, blue):
    start = Latent(torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 4, 8, 8), torch.ones(2, 1, 64, 64))
    pair = SourceAndTarget(samples=start, source=red, target=blue).run(ctx)
    assert not pair.latent.x.any()
    assert pair.latent.noise_mask.shape == (1, 1, 64, 64)
