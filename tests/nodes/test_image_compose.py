import torch

from diffusion.values import Image, Mask
from nodes.image_compose import ImageCompositeMasked, ImagePadForOutpaint

BLACK, WHITE = Image(torch.zeros(1, 6, 8, 3)), Image(torch.ones(1, 2, 3, 3))


def test_a_picture_is_pasted_and_cut_at_the_border(ctx):
    out = ImageCompositeMasked(destination=BLACK, source=WHITE, x=6, y=1).run(ctx).pixels
    wanted = torch.zeros(1, 6, 8, 3)
    wanted[:, 1:3, 6:8] = 1
    assert torch.equal(out, wanted)
    assert torch.equal(ImageCompositeMasked(destination=BLACK, source=WHITE, x=99, y=99).run(ctx).pixels, BLACK.pixels)


def test_the_mask_says_how_much_shows(ctx):
    mask = Mask(torch.tensor([[[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]]))
    out = ImageCompositeMasked(destination=BLACK, source=WHITE, x=0, y=0, mask=mask).run(ctx).pixels
    assert torch.equal(out[0, 0, :3, 0], torch.tensor([0.0, 0.5, 1.0]))
    filled = ImageCompositeMasked(destination=BLACK, source=WHITE, x=0, y=0, resize_source=True).run(ctx).pixels
    assert torch.allclose(filled, torch.ones(1, 6, 8, 3))


def test_one_source_serves_a_batch(ctx):
    out = ImageCompositeMasked(destination=Image(torch.zeros(3, 6, 8, 3)), source=WHITE, x=0, y=0).run(ctx).pixels
    assert torch.equal(out[0], out[2])
    assert out[2, 0, 0, 0] == 1


def test_padding_is_grey_and_the_mask_falls_off_quadratically(ctx):
    image = Image(torch.ones(2, 20, 20, 3))
    out = ImagePadForOutpaint(image=image, left=8, top=0, right=0, bottom=4, feathering=4).run(ctx)
    assert out.image.pixels.shape == (2, 24, 28, 3)
    assert bool((out.image.pixels[:, :, :8] == 0.5).all())
    assert torch.equal(out.image.pixels[:, :20, 8:], image.pixels)
    mask = out.mask.values[0]
    assert bool((mask[:, :8] == 1).all())
    assert bool((mask[20:] == 1).all())
    # from the extended left side; the top was not extended
    assert torch.allclose(mask[0, 8:13], torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]) ** 2)
    # one row above the extended bottom, the distance is 1
    assert mask[19, 20].item() == 0.75**2


def test_a_seam_wider_than_half_the_picture_is_left_out(ctx):
    out = ImagePadForOutpaint(image=Image(torch.ones(1, 20, 20, 3)), left=8, feathering=40).run(ctx)
    assert torch.equal(out.mask.values[0, :, 8:], torch.zeros(20, 20))
