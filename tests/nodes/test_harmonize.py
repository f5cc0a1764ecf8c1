"""Composites made one: areas, colours and latent cells by law, and halos of a wrong background healed in the toybox world."""

import pytest
import torch
import torch.nn.functional as F

import toybox
from diffusion.loading import open_checkpoint
from diffusion.text import encode
from diffusion.values import Image, Latent, Mask
from graph_engine.errors import NodeError
from nodes.harmonize import HarmonizeComposite, MaskToLatent, MatchColors, SeamBand, seam
from toybox.captions import caption
from toybox.scenes import COLORS, composite, render
from toybox.scenes import sample as scene_of
from toybox.segment import iou, segment


def square(size=32, low=8, high=24):
    mask = torch.zeros(1, size, size)
    mask[:, low:high, low:high] = 1
    return mask


def test_band_object_and_interior(ctx):
    out = SeamBand(mask=Mask(square()), inner=2, outer=3).run(ctx)
    assert torch.equal(out.object.values, square(low=5, high=27))
    assert torch.equal(out.interior.values, square(low=10, high=22))
    assert torch.equal(out.band.values, out.object.values - out.interior.values)


def test_the_pictures_border_is_no_seam(ctx):
    mask = torch.zeros(1, 16, 16)
    mask[:, :8] = 1
    out = SeamBand(mask=Mask(mask), inner=2, outer=2).run(ctx)
    assert out.band.values[0, 6:10].all()
    assert out.band.values.sum() == 4 * 16
    assert not SeamBand(mask=Mask(torch.ones(1, 16, 16))).run(ctx).band.values.any()


def test_faint_parts_count_as_pasted(ctx):
    mask = torch.zeros(1, 16, 16)
    mask[:, 8, 8] = 1e-3
    assert SeamBand(mask=Mask(mask), inner=0, outer=1).run(ctx).object.values.sum() == 9


def test_no_latent_cell_that_is_touched_gets_lost(ctx):
    latent = Latent(torch.zeros(1, 4, 6, 5))
    for y, x in ((0, 0), (47, 39), (8, 7), (23, 16)):
        mask = torch.zeros(1, 48, 40)
        mask[:, y, x] = 0.01
        cells = MaskToLatent(mask=Mask(mask), latent=latent).run(ctx).values
        assert cells.shape == (1, 6, 5)
        assert cells.nonzero().tolist() == [[0, y // 8, x // 8]]
    small = MaskToLatent(mask=Mask(torch.eye(3)[None]), latent=latent).run(ctx).values
    assert small.shape == (1, 6, 5)
    assert set(small.unique().tolist()) == {0.0, 1.0}


def test_matched_colours_have_mean_and_deviation_of_the_other_area(ctx):
    image = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    image[:, 8:] = image[:, 8:] * 0.5 + 0.3
    upper, lower = torch.zeros(1, 16, 16), torch.zeros(1, 16, 16)
    upper[:, :8], lower[:, 8:] = 1, 1
    out = MatchColors(image=Image(image), area=Mask(upper), like=Mask(lower)).run(ctx).pixels
    assert torch.equal(out[:, 8:], image[:, 8:])
    assert torch.allclose(out[:, :8].mean((1, 2)), image[:, 8:].mean((1, 2)), atol=1e-5)
    assert torch.allclose(out[:, :8].std((1, 2)), image[:, 8:].std((1, 2)), atol=1e-4)
    reference = MatchColors(image=Image(image), area=Mask(upper), like=Mask(lower), reference=Image(image)).run(ctx).pixels
    assert torch.allclose(reference, out, atol=1e-6)
    for how in ({"strength": 0.0}, {"like": Mask(torch.zeros(1, 16, 16))}):
        same = MatchColors(**{"image": Image(image), "area": Mask(upper), "like": Mask(lower)} | how).run(ctx).pixels
        assert torch.equal(same, image)


@pytest.fixture
def harmonize(ctx, model, vae, red, blue):
    image = Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3)))

    def run(**inputs):
        told = {"model": model, "vae": vae, "image": image, "mask": Mask(square(64, 16, 48)), "positive": red, "negative": blue}
        return image.pixels, HarmonizeComposite(**told | {"steps": 2, "seed": 1} | inputs).run(ctx)

    return run


def test_the_seam_mode_leaves_interior_and_surroundings_as_they_are(harmonize):
    before, out = harmonize(inner=4, outer=6, match_colors=1.0)
    band, _, interior = seam(square(64, 16, 48), 4, 6)
    assert torch.equal(out.mask.values, band)
    same = (out.image.pixels == before).all(-1)
    assert same[interior > 0].all()
    assert same[band == 0].all()
    assert not same[band > 0].all()


def test_the_object_mode_leaves_the_surroundings_as_they_are(harmonize):
    before, out = harmonize(area="object", outer=6)
    assert torch.equal(out.mask.values, square(64, 10, 54))
    assert torch.equal(out.image.pixels[out.mask.values == 0], before[out.mask.values == 0])
    assert (out.image.pixels != before).any(-1)[:, 20:44, 20:44].any()


def test_without_a_mask_nothing_happens(harmonize):
    before, out = harmonize(mask=Mask(torch.zeros(1, 64, 64)), match_colors=1.0)
    assert torch.equal(out.image.pixels, before)


def test_sides_that_are_no_multiples_of_a_cell_are_refused(harmonize):
    with pytest.raises(NodeError, match="image: sides that are multiples of 8 are wanted, 60 × 64 given"):
        harmonize(image=Image(torch.zeros(1, 64, 60, 3)))


def test_a_halo_is_healed(ctx, device):
    """An object pasted with three pixels of another background around it; seam band of 5 and 5 pixels, level 0.3, colours matched.

    Proposed: the halo's distance to the true background falls by 60 %, the object's IoU with its true mask is 0.85, the mean gradient
    across the paste's edge falls by 40 %, and nothing changes elsewhere. On 8 scenes at 12 steps: 82 % (least 68 %), 0.865 (0.685 before),
    84 %, exactly nothing. Without matched colours 68 % (least 37 %), 0.874, 72 %.
    """
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    scenes, others = [], []
    for i in range(4):
        scene = scene_of(7000 + i, 1, style="flat", size="large")
        taken = (scene.background.color, scene.objects[0].color)
        free = [color for color in COLORS if color not in taken]
        scenes.append(scene)
        others.append(scene.replace(background_color=free[(i + 1) % len(free)]))
    truth, masks = render(scenes)
    pairs = [composite(a, b) for a, b in zip(scenes, others, strict=True)]
    pasted, part = torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])
    halo = ((part > 0) & (masks[:, 0] < 0.02)).float()
    edge = seam(part, 1, 1)[0]

    def apart(pictures):
        return ((pictures - truth).abs().mean(-1) * halo).sum((1, 2)) / halo.sum((1, 2))

    def gradient(pictures):
        across = F.pad(pictures.diff(dim=2).abs().mean(-1), (0, 1))
        down = F.pad(pictures.diff(dim=1).abs().mean(-1), (0, 0, 0, 1))
        return (torch.hypot(across, down) * edge).sum((1, 2)) / edge.sum((1, 2))

    prompts = [encode(clip, caption(scene).text, device) for scene in scenes]
    told = prompts[0].map(embeds=torch.cat([p.entries[0].embeds for p in prompts]), tokens=())
    node = HarmonizeComposite(
        model=model, vae=vae, image=Image(pasted), mask=Mask(part), positive=told, negative=encode(clip, "", device),
        inner=5, outer=5, match_colors=1.0, steps=10, cfg=2.0, seed=1,
    )  # fmt: skip
    out = node.run(ctx)
    healed = out.image.pixels
    assert (1 - apart(healed) / apart(pasted)).mean() >= 0.6
    assert iou(segment(healed, [s.background.color for s in scenes]), masks[:, 0]).mean() >= 0.85
    assert (gradient(healed) / gradient(pasted)).mean() <= 0.6
    assert torch.equal(healed[out.mask.values == 0], pasted[out.mask.values == 0])
    inside = seam(part, 5, 5)[2] > 0
    assert torch.equal(healed[inside], pasted[inside])
