"""A prompt that control networks read and the denoiser does not."""

import torch

from nodes.text import CLIPTextEncode, CLIPTextEncodeControlnet


def test_it_goes_beside_the_conditioning_and_leaves_it_as_it_is(ctx, clip, red):
    (entry,) = CLIPTextEncodeControlnet(clip=clip, conditioning=red, text="a blue dog").run(ctx)
    assert entry.embeds is red.entries[0].embeds
    assert torch.equal(entry.control_embeds, CLIPTextEncode(clip=clip, text="a blue dog").run(ctx).entries[0].embeds)
