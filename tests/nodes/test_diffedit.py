"""DiffEdit: laws on the small random checkpoint, diffusers' pipeline on the same weights, and masks against the toybox's ground truth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import toybox
from diffusion.compare import psnr
from diffusion.family import family
from diffusion.guidance import CFG, Conditional
from diffusion.loading import open_checkpoint
from diffusion.mask import grow
from diffusion.pair import stacked
from diffusion.sample import fit_mask
from diffusion.samplers import integrate, make_stepper
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.vae import decode as vae_decode
from diffusion.vae import encode as vae_encode
from diffusion.values import Latent, Mask, Trajectory
from nodes.ddim_inversion import DDIMInversion
from nodes.diffedit import DiffEditEncode, MaskedDDIMDecode, NoiseContrastMask, normalised
from nodes.edit_friendly_ddpm import EditFriendlyInversion
from nodes.null_text import NullTextInversion
from nodes.toybox import ToyboxScene
from nodes.trajectory_replay import ReplayTrajectory

STEPS = 5


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def remembering(states):
    step = make_stepper("ddim")

    def run(denoise, x, s, source):
        states.append(x)
        return step(denoise, x, s, source)

    return run


def inverted(model, cond, x0, device, timesteps):
    """DDIM inversion of x0 in model scale."""
    schedule = Schedule.at(model.process.table(), timesteps).reversed()
    states = []
    with open_session(model, Conditional(cond), device) as net:
        states.append(integrate(remembering(states), net, x0, schedule))
    return Trajectory(torch.stack(states), torch.tensor(schedule.sigmas))


@pytest.fixture
def latent():
    return Latent(noise(0, 1, 4, 8, 8))


@pytest.fixture(scope="module")
def empty(clip, device):
    return encode(clip, "", device)


@pytest.fixture(scope="module")
def path(model, red, device):
    return inverted(model, red, noise(2, 2, 4, 8, 8), device, [900, 700, 500, 300, 100])


# -- mask --


def test_equal_prompts_give_an_empty_mask_that_says_so(ctx, model, red, blue, latent):
    same = NoiseContrastMask(model=model, samples=latent, target=red, source=red, maps=2).run(ctx)
    assert not same.found
    assert not same.mask.values.any()
    assert not same.heat.values.any()
    other = NoiseContrastMask(model=model, samples=latent, target=red, source=blue, maps=2, normalise="minmax", dilate=0).run(ctx)
    assert other.found
    assert other.mask.values.shape == (1, 64, 64)
    assert set(other.mask.values.unique().tolist()) == {0.0, 1.0}
    assert other.contrast.values.shape == (1, 8, 8)


@pytest.mark.parametrize("how", ["clamp_mean", "minmax", "quantile"])
def test_batch_mates_change_no_mask(ctx, model, red, blue, latent, how):
    mate = Latent(torch.cat([noise(1, 1, 4, 8, 8) * 9, latent.x]))
    settings = {"model": model, "target": red, "source": blue, "maps": 3, "normalise": how}
    alone, beside = (NoiseContrastMask(samples=samples, **settings).run(ctx) for samples in (latent, mate))
    torch.testing.assert_close(beside.heat.values[1], alone.heat.values[0], atol=1e-4, rtol=1e-3)


def test_each_map_is_scaled_on_its_own():
    d = torch.stack([torch.arange(100.0).reshape(10, 10), torch.full((10, 10), 5.0).index_fill(0, torch.tensor(0), 50.0)])
    scaled = normalised(d, "clamp_mean", 3.0)
    assert scaled[0].flatten()[[0, 50]].tolist() == pytest.approx([0, 50 / (3 * 49.5)])
    assert scaled[1, 0].unique().tolist() == [1.0]  # beyond three times the mean
    assert normalised(d, "minmax", 3.0)[0].flatten()[[0, 99]].tolist() == [0.0, 1.0]
    assert (normalised(d, "quantile", 3.0)[0] == 1).sum() == 2  # the extremes at the upper end
    assert torch.equal(normalised(d[1:], "clamp_mean", 3.0), scaled[1:])


def test_more_noises_average_and_the_mask_grows(ctx, model, red, blue, latent):
    settings = {"model": model, "samples": latent, "target": red, "source": blue}
    one, three = (NoiseContrastMask(maps=maps, **settings).run(ctx).contrast.values for maps in (1, 3))
    assert not torch.allclose(one, three)  # every map has a noise of its own
    bare, grown = (NoiseContrastMask(maps=1, dilate=dilate, **settings).run(ctx).mask.values for dilate in (0, 1))
    torch.testing.assert_close(grown[:, ::8, ::8], grow(bare[:, ::8, ::8], 1, tapered_corners=False))
    assert torch.equal(fit_mask(grown[:, None], latent.x)[:, 0], grown[:, ::8, ::8])  # a decode sees the very cells


# -- decode --


def decode(ctx, model, path, red, blue, **settings):
    return MaskedDDIMDecode(model=model, trajectory=path, positive=blue, negative=red, cfg=3.0, **settings).run(ctx)


def test_an_empty_mask_is_the_reconstruction_and_a_full_one_the_plain_edit(ctx, model, path, red, blue, device):
    empty, full = (Mask(torch.full((1, 64, 64), value)) for value in (0.0, 1.0))
    scale = 0.18215
    assert torch.equal(decode(ctx, model, path, red, blue, mask=empty).latent.x, path.latents[0] / scale)
    plain = decode(ctx, model, path, red, blue, ratio=0.6).latent.x
    assert torch.equal(decode(ctx, model, path, red, blue, ratio=0.6, mask=full).latent.x, plain)
    schedule = Schedule(model.process.table(), path.sigmas[:4].flip(0))
    with open_session(model, CFG(blue, red, 3.0), device) as net:  # the same without the node
        expected = integrate(make_stepper("ddim"), net, path.latents[3], schedule)
    assert torch.equal(plain, expected / scale)
    assert torch.equal(decode(ctx, model, path, red, blue, ratio=0.0).latent.x, path.latents[0] / scale)


def test_the_background_has_the_level_of_the_foreground_at_every_step(ctx, model, path, red, blue):
    half = torch.zeros(1, 64, 64)
    half[:, :, 32:] = 1
    edited = decode(ctx, model, path, red, blue, ratio=1.0, mask=Mask(half)).trajectory
    assert torch.equal(edited.sigmas, path.sigmas)
    assert torch.equal(edited.latents[..., :4], path.latents[..., :4])
    assert not torch.equal(edited.latents[0, ..., 4:], path.latents[0, ..., 4:])


def test_each_picture_of_a_batch_is_edited_by_itself(ctx, model, path, red, blue):
    mask = Mask((noise(3, 2, 8, 8) > 0).float())
    both = decode(ctx, model, path, red, blue, mask=mask).latent.x
    one = decode(ctx, model, Trajectory(path.latents[:, 1:], path.sigmas), red, blue, mask=Mask(mask.values[1:])).latent.x
    torch.testing.assert_close(both[1:], one, atol=1e-3, rtol=1e-3)


def test_each_prompt_of_a_batch_has_a_row(ctx, model, path, red, blue):
    one, mask = Trajectory(path.latents[:, :1], path.sigmas), Mask((noise(3, 1, 8, 8) > 0).float())
    both = decode(ctx, model, one, red, stacked(blue, red), mask=mask).latent.x
    for row, prompt in zip(both, (blue, red), strict=True):
        torch.testing.assert_close(row, decode(ctx, model, one, red, prompt, mask=mask).latent.x[0], atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="trajectory: that of one picture or of 3 is wanted by the prompts, of 2 given"):
        decode(ctx, model, path, red, stacked(stacked(blue, red), red))


def test_what_an_inversion_stored_counts_as_in_a_replay(ctx, model, red, blue, empty, latent):
    path = DDIMInversion(model=model, samples=latent, positive=red, steps=4).run(ctx).trajectory
    tuned = NullTextInversion(model=model, trajectory=path, positive=red, negative=empty, cfg=3.0, inner_steps=2).run(ctx).trajectory
    noises = EditFriendlyInversion(model=model, samples=latent, positive=red, negative=empty, steps=4).run(ctx).trajectory
    for stored in (tuned, noises):
        how = {"model": model, "trajectory": stored, "positive": blue, "negative": empty, "cfg": 3.0}
        assert torch.equal(MaskedDDIMDecode(**how, ratio=0.75).run(ctx).latent.x, ReplayTrajectory(**how, start=0.75).run(ctx).latent.x)


def test_a_trajectory_of_another_model_is_refused(ctx, model, path, red, blue):
    with pytest.raises(ValueError, match="a sd1 latent is wanted by this model, sdxl given"):
        decode(ctx, model, Trajectory(path.latents, path.sigmas, format="sdxl"), red, blue)
    with pytest.raises(ValueError, match="trajectory: levels that rise from one to the next are wanted"):
        decode(ctx, model, Trajectory(path.latents, torch.tensor([0.0, 1, 1, 2, 3, 4])), red, blue)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_the_encoding_is_the_walk_up_the_schedule(ctx, model, red, device, latent, ratio):
    path = DiffEditEncode(model=model, samples=latent, prompt=red, steps=4, scheduler="normal", ratio=ratio).run(ctx)
    levels = sigmas_for(model.process.table(), "normal", 4)[-(round(4 * ratio) + 1) :]
    assert torch.equal(path.sigmas, levels.flip(0))
    assert torch.equal(path.latents[0], latent.x * 0.18215)
    with open_session(model, Conditional(red), device) as net:
        top = integrate(make_stepper("ddim"), net, latent.x * 0.18215, Schedule(model.process.table(), levels.flip(0)))
    assert torch.equal(path.latents[-1], top)


# -- diffusers --


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline, UNet2DConditionModel

    scheduler = DDIMScheduler.from_pretrained(tiny_folder / "scheduler", steps_offset=1, set_alpha_to_one=False)
    pipe = StableDiffusionDiffEditPipeline(
        AutoencoderKL.from_pretrained(tiny_folder / "vae"),
        None,
        None,
        UNet2DConditionModel.from_pretrained(tiny_folder / "unet"),
        scheduler,
        None,
        None,
        DDIMInverseScheduler.from_config(scheduler.config),
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scale", [2.0, 7.5])
def test_the_mask_of_one_picture_is_that_of_diffusers_whatever_the_guidance(ctx, model, red, blue, empty, pipeline, latent, scale):
    x0 = latent.x * 0.18215
    pipe = pipeline
    told = {
        "target_prompt_embeds": red.entries[0].embeds,
        "source_prompt_embeds": blue.entries[0].embeds,
        "target_negative_prompt_embeds": empty.entries[0].embeds,
        "source_negative_prompt_embeds": empty.entries[0].embeds,
    }
    pipe.image_processor.preprocess = lambda image, **_: image
    told |= {"num_maps_per_mask": 4, "num_inference_steps": 50, "guidance_scale": scale, "mask_thresholding_ratio": 2.1}
    theirs = pipe.generate_mask(x0, **told, generator=torch.Generator().manual_seed(7))
    level = int(pipe.scheduler.timesteps[25]) / 999
    settings = {"seed": 7, "maps": 4, "level": level, "clamp": 2.1, "dilate": 0}
    ours = NoiseContrastMask(model=model, samples=latent, target=red, source=blue, **settings).run(ctx)
    assert 0 < theirs.sum() < theirs.size
    assert torch.equal(ours.mask.values[:, ::8, ::8], torch.as_tensor(theirs).float())


@pytest.mark.filterwarnings("ignore")
def test_diffusers_background_lags_one_level_behind_ours(ctx, model, red, blue, pipeline, latent, device):
    """Their blend after step i takes the state that the step came from; blended at the level it arrives at, their loop gives our result."""
    pipe, steps = pipeline, 5
    pipe.image_processor.preprocess = lambda image, **_: image
    pipe.scheduler.set_timesteps(steps)
    last = float(((1 - pipe.scheduler.final_alpha_cumprod) / pipe.scheduler.final_alpha_cumprod) ** 0.5)
    table = model.process.table()
    schedule = Schedule.at(table, pipe.scheduler.timesteps.tolist(), last)
    states, x0 = [], latent.x * 0.18215
    with open_session(model, Conditional(red), device) as net:
        states.append(integrate(remembering(states), net, x0, schedule.reversed()))
    path = Trajectory(torch.stack(states), torch.tensor(schedule.sigmas[::-1]))
    mask = (noise(4, 1, 8, 8) > 0).float()
    ours = decode(ctx, model, path, red, blue, ratio=1.0, mask=Mask(mask)).latent.x * 0.18215

    lagging = pipe(
        mask_image=mask[:, None],
        image_latents=torch.stack([path.latents[k] / (1 + path.sigmas[k] ** 2) ** 0.5 for k in range(steps, 0, -1)], 1),
        prompt_embeds=blue.entries[0].embeds,
        negative_prompt_embeds=red.entries[0].embeds,
        inpaint_strength=1.0,
        num_inference_steps=steps,
        guidance_scale=3.0,
        output_type="latent",
    ).images
    outside = mask[:, None].expand_as(ours) == 0
    # the last blend leaves the background at their first level, and not at the clean end
    torch.testing.assert_close((lagging * (1 + path.sigmas[1] ** 2) ** 0.5)[outside], path.latents[1][outside])
    assert not torch.allclose(lagging[~outside] * (1 + last**2) ** 0.5, ours[~outside], atol=1e-2)
    torch.testing.assert_close(ours[outside], path.latents[0][outside], atol=1e-6, rtol=1e-6)
    x = path.latents[steps] / (1 + path.sigmas[steps] ** 2) ** 0.5
    with torch.no_grad():  # their loop, but for the blend at the level that the step arrives at
        for k, t in zip(range(steps - 1, -1, -1), pipe.scheduler.timesteps, strict=True):
            e_u, e_c = pipe.unet(torch.cat([x, x]), t, torch.cat([red.entries[0].embeds, blue.entries[0].embeds])).sample.chunk(2)
            x = pipe.scheduler.step(e_u + 3.0 * (e_c - e_u), t, x).prev_sample
            x = x * mask[:, None] + path.latents[k] / (1 + path.sigmas[k] ** 2) ** 0.5 * (1 - mask[:, None])
    torch.testing.assert_close(x * (1 + last**2) ** 0.5, ours, atol=2e-3, rtol=2e-3)


# -- the toybox --


@pytest.fixture(scope="module")
def embedded():
    return open_checkpoint(toybox.WEIGHTS)


def test_masks_find_the_changed_object_and_keep_the_rest(ctx, embedded, device):
    model, clip, vae = embedded
    empty = encode(clip, "", device)
    found, boxes, gains = [], [], []
    for seed in range(4):
        change = ("shape", "color")[seed % 2]
        scene = ToyboxScene(seed=seed, objects="two", change=change, style="flat", style_2="flat", size="large").run(ctx)
        latent = vae_encode(vae, scene.image, device)
        target, source = (encode(clip, text, device) for text in (scene.target_caption, scene.caption))
        mask = NoiseContrastMask(model=model, samples=latent, target=target, source=source, maps=4).run(ctx).mask
        truth = (F.interpolate(scene.edit_mask.values[:, None], (16, 16), mode="area")[:, 0] > 0.25).float()
        truth, cells = grow(truth, 1, tapered_corners=False), mask.values[:, ::8, ::8]
        found.append([float((cells * truth).sum() / ((cells + truth) > 0).sum()), float((cells * truth).sum() / truth.sum())])
        boxes.append(_of_a_random_box(truth, seed))
        if seed < 2:
            x0 = latent.x * family(model.weights.family).latent.scale
            path = inverted(model, empty, x0, device, [900, 800, 700, 600, 500, 400, 300, 200, 100, 20])
            before = vae_decode(vae, latent, device).pixels
            away = 1 - grow(mask.values, 8, tapered_corners=False)  # the VAE sees a little beyond each cell
            seen = []
            for chosen in (mask, None):
                out = MaskedDDIMDecode(model=model, trajectory=path, positive=target, negative=empty, cfg=4.0, mask=chosen).run(ctx)
                seen.append(psnr(vae_decode(vae, out.latent, device).pixels, before, away))
            gains.append(seen[0] - seen[1])
    iou, recall = torch.tensor(found).mean(0).tolist()
    assert iou >= max(0.7, sum(boxes) / len(boxes) + 0.2)
    assert recall >= 0.85
    assert min(gains) >= 6


def _of_a_random_box(truth, seed):
    """The IoU that boxes of the truth's area reach by chance, the mean of 200."""
    rng, side = torch.Generator().manual_seed(seed), max(1, round(float(truth.sum()) ** 0.5))
    scores = []
    for _ in range(200):
        y, x = torch.randint(0, 17 - side, (2,), generator=rng).tolist()
        box = torch.zeros_like(truth)
        box[:, y : y + side, x : x + side] = 1
        scores.append(float((box * truth).sum() / ((box + truth) > 0).sum()))
    return sum(scores) / len(scores)
