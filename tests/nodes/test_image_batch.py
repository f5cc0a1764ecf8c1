import torch

from diffusion.values import Image
from nodes.image_batch import GetImageSize, ImageBatch, ImageFromBatch, RepeatImageBatch


def numbered(count: int, height: int = 4, width: int = 4) -> Image:
    return Image(torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, height, width, 3) / 10)


def test_batches_join_and_the_second_takes_the_size_of_the_first(ctx):
    out = ImageBatch(image1=numbered(2, 4, 6), image2=numbered(1, 9, 5)).run(ctx).pixels
    assert out.shape == (3, 4, 6, 3)
    assert torch.equal(out[:2], numbered(2, 4, 6).pixels)


def test_repeating_a_batch_keeps_its_order(ctx):
    out = RepeatImageBatch(image=numbered(2), amount=2).run(ctx).pixels
    assert (out[:, 0, 0, 0] * 10).round().tolist() == [0, 1, 0, 1]


def test_pictures_from_a_batch_stop_at_its_end(ctx):
    def taken(first: int, length: int) -> list[float]:
        return (ImageFromBatch(image=numbered(3), batch_index=first, length=length).run(ctx).pixels[:, 0, 0, 0] * 10).round().tolist()

    assert taken(1, 1) == [1]
    assert taken(1, 9) == [1, 2]
    assert taken(9, 1) == [2]


def test_the_size_is_width_height_and_number(ctx):
    assert GetImageSize(image=numbered(3, 4, 7)).run(ctx) == (7, 4, 3)
