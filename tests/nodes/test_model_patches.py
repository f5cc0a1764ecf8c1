"""Changes of a model against formulas written down anew, on the small random checkpoint."""

import math

import pytest
import torch
import torch.nn.functional as F

from diffusion.guidance import CFG, Conditional, PerpNeg, perpendicular
from diffusion.patch import AttentionPatch, FeaturePatch
from diffusion.process import Process
from diffusion.sample import sample
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas
from nodes import perp_neg
from nodes.deep_shrink import PatchModelAddDownscale
from nodes.differential import Differential, DifferentialDiffusion
from nodes.free_u import FreeU, FreeU_V2, amplified, low_scaled
from nodes.hyper_tile import HyperTile, cut, join, tiles
from nodes.model_sampling import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from nodes.perturbed_attention import PerturbedAttentionGuidance
from nodes.rescale_cfg import RescaleCFG, rescaled
from nodes.self_attention_guidance import SelfAttentionGuidance, blurred, looked_at
from nodes.token_merging import TomePatchModel, matching

SIGMA = 2.5


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def x() -> torch.Tensor:
    return noise(1, 2, 4, 8, 8) * SIGMA


@pytest.fixture
def denoise(red, blue, device):
    """D of a model, its branches' predictions with it."""

    def run(model, x, sigma=SIGMA, scale=3.0, guidance=None):
        with open_session(model, guidance or CFG(red, blue, scale), device) as net, torch.no_grad():
            return net.denoise_all(x, sigma)

    return run


class Watch(FeaturePatch, AttentionPatch):
    """Notes the size of what each block and each self-attention sees."""

    def __init__(self):
        self.blocks, self.queries = {}, {}

    def at_block(self, block):
        return True

    def block(self, call, next):
        out = next(call)
        self.blocks[call.block.name] = (call.h.shape[2], out.shape[2])
        return out

    def at_site(self, site):
        return not site.cross

    def __call__(self, call, next):
        self.queries[call.site.name] = (call.site.scale, call.q.shape)
        return next(call)


# -- what is predicted --


def test_each_parametrisation_inverts_its_own_definition():
    x0, noise_ = noise(0, 1, 4, 4, 4).double(), noise(1, 1, 4, 4, 4).double()
    x = x0 + SIGMA * noise_
    a = 1 / math.sqrt(1 + SIGMA**2)
    s = SIGMA * a
    torch.testing.assert_close(Process("epsilon").denoised(x, SIGMA, noise_), x0)
    torch.testing.assert_close(Process("v_prediction").denoised(x, SIGMA, a * noise_ - s * x0), x0)
    torch.testing.assert_close(Process("sample").denoised(x, SIGMA, x0), x0)
    torch.testing.assert_close(Process("img_to_img").denoised(x, SIGMA, x0), x0)
    edm = Process("edm", levels=(0.002, 120.0), sigma_data=0.5)  # eq. 8: the training target of F
    skip, out = 0.25 / (SIGMA**2 + 0.25), SIGMA * 0.5 / math.sqrt(SIGMA**2 + 0.25)
    torch.testing.assert_close(edm.denoised(x, SIGMA, (x0 - skip * x) / out), x0)
    assert Process("img_to_img").scale_input(x, SIGMA) is x
    torch.testing.assert_close(edm.scale_input(x, SIGMA), x / math.sqrt(SIGMA**2 + 0.25))


def test_a_consistency_model_knows_every_twentieth_timestep():
    whole, table = Process().table(), Process("lcm").table()
    assert len(table) == 50
    assert torch.equal(table.sigmas, whole.sigmas[19::20])
    assert [table.told(float(table.sigmas[i])) for i in (0, 1, 49)] == [19, 39, 999]
    assert table.percent_to_sigma(0.5) == pytest.approx(whole.sigma(499.5), rel=1e-2)
    x, raw = noise(0, 1, 4, 4, 4), noise(1, 1, 4, 4, 4)
    d = Process("lcm").denoised(x, table.sigma_max, raw)  # far from the data its boundary condition is all but nothing
    torch.testing.assert_close(d, x - raw * table.sigma_max, rtol=1e-3, atol=1e-3)


def test_zero_terminal_snr_reaches_the_level_of_the_specification(ctx, model):
    changed = ModelSamplingDiscrete(model=model, sampling="v_prediction", zsnr=True).run(ctx)
    assert changed.process.table().sigma_max == pytest.approx(4518.76, rel=1e-5)
    assert model.process.prediction == "epsilon"
    back = ModelSamplingDiscrete(model=changed, sampling="eps").run(ctx)
    assert back.process == model.process


@pytest.mark.parametrize("sampling", ["eps", "v_prediction", "lcm", "x0", "img_to_img"])
def test_the_network_is_the_same_whatever_it_is_said_to_predict(ctx, model, denoise, x, sampling):
    process = ModelSamplingDiscrete(model=model, sampling=sampling).run(ctx).process
    table = process.table()
    sigma = table.sigmas[len(table) // 2].item()
    got, _ = denoise(ModelSamplingDiscrete(model=model, sampling=sampling).run(ctx), x, sigma)
    plain_x = process.scale_input(x, sigma) * math.sqrt(1 + sigma**2)  # what an ε model would have to be shown
    raw = (plain_x - denoise(model, plain_x, sigma)[0]) / sigma
    torch.testing.assert_close(got, process.denoised(x, sigma, raw), rtol=1e-3, atol=1e-3)


def test_a_continuous_model_is_told_a_quarter_of_log_sigma(ctx, model, denoise, x):
    changed = ModelSamplingContinuousEDM(model=model, sampling="edm").run(ctx)
    table = changed.process.table()
    assert (table.sigma_min, table.sigma_max) == (pytest.approx(0.002), pytest.approx(120))
    assert table.told(SIGMA) == pytest.approx(math.log(SIGMA) / 4)
    assert table.percent_to_sigma(0.5) == pytest.approx(math.sqrt(0.002 * 120), rel=1e-4)
    assert denoise(changed, x)[0].isfinite().all()
    with pytest.raises(Exception, match="sampling: v_prediction, edm or eps is wanted; cosmos_rflow"):
        ModelSamplingContinuousEDM(model=model, sampling="cosmos_rflow").run(ctx)
    with pytest.raises(Exception, match="sigma_min: a level above 0 and below sigma_max 1 is wanted, 2 given"):
        ModelSamplingContinuousEDM(model=model, sampling="eps", sigma_max=1.0, sigma_min=2.0).run(ctx)


# -- guidance --


def test_rescaling_in_full_gives_v_the_conditional_spread(ctx, model, denoise, x):
    def v(d):
        return (x / (SIGMA**2 + 1) - d) * math.sqrt(SIGMA**2 + 1) / SIGMA

    plain, preds = denoise(model, x)
    full, _ = denoise(RescaleCFG(model=model, multiplier=1.0).run(ctx), x)
    torch.testing.assert_close(v(full).std((1, 2, 3)), v(preds["positive"]).std((1, 2, 3)), rtol=1e-4, atol=0)
    half, _ = denoise(RescaleCFG(model=model, multiplier=0.5).run(ctx), x)
    torch.testing.assert_close(half, (plain + full) / 2, rtol=1e-4, atol=1e-4)
    none, _ = denoise(RescaleCFG(model=model, multiplier=0.0).run(ctx), x)
    torch.testing.assert_close(none, plain, rtol=1e-4, atol=1e-4)
    same = noise(0, 2, 4, 8, 8)
    torch.testing.assert_close(rescaled(same, same, 0.7), same)


def test_perturbed_attention_adds_the_difference_from_a_network_without_middle_attention(ctx, model, denoise, x, red):
    class Identity(AttentionPatch):
        def at_site(self, site):
            return site.place == "mid" and not site.cross

        def __call__(self, call, next):
            return call.v

    plain, preds = denoise(model, x)
    blind, _ = denoise(model.patched(Identity()), x, guidance=Conditional(red))
    assert (blind - preds["positive"]).abs().max() > 1e-3
    got, _ = denoise(PerturbedAttentionGuidance(model=model, scale=2.0).run(ctx), x)
    torch.testing.assert_close(got, plain + 2 * (preds["positive"] - blind), rtol=1e-3, atol=1e-3)
    assert PerturbedAttentionGuidance(model=model, scale=0.0).run(ctx) is model


def test_the_rule_of_guidance_comes_before_what_is_added_in_either_order(ctx, model, denoise, x):
    one = RescaleCFG(model=PerturbedAttentionGuidance(model=model).run(ctx)).run(ctx)
    other = PerturbedAttentionGuidance(model=RescaleCFG(model=model).run(ctx)).run(ctx)
    torch.testing.assert_close(denoise(one, x)[0], denoise(other, x)[0])
    twice = RescaleCFG(model=RescaleCFG(model=model, multiplier=0.1).run(ctx), multiplier=0.9).run(ctx)
    torch.testing.assert_close(denoise(twice, x)[0], denoise(RescaleCFG(model=model, multiplier=0.9).run(ctx), x)[0])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_self_attention_guidance_by_hand(ctx, model, denoise, x, red, blue, scale):
    seen = {}

    class Look(AttentionPatch):
        def at_site(self, site):
            return site.place == "mid" and not site.cross

        def __call__(self, call, next):
            seen["received"], seen["size"] = call.probs().mean(1).sum(1), call.site.size
            return next(call)

    plain, _ = denoise(model, x, scale=scale)
    negative, _ = denoise(model.patched(Look()), x, guidance=Conditional(blue))
    mask = F.interpolate((seen["received"] > 1).float().view(2, 1, *seen["size"]), (8, 8))
    assert 0 < mask.mean() < 1
    degraded = blurred(negative, 1.5) * mask + negative * (1 - mask)
    away, _ = denoise(model, degraded + x - negative, guidance=Conditional(blue))
    got, _ = denoise(SelfAttentionGuidance(model=model, scale=0.8, blur_sigma=1.5).run(ctx), x, scale=scale)
    torch.testing.assert_close(got, plain + 0.8 * (degraded - away), rtol=1e-3, atol=1e-3)
    alone, _ = denoise(SelfAttentionGuidance(model=model).run(ctx), x, guidance=Conditional(red))
    torch.testing.assert_close(alone, denoise(model, x, guidance=Conditional(red))[0])  # no negative, nothing to do


def test_blurring_keeps_a_flat_latent_and_what_is_looked_at_is_above_the_mean():
    flat = torch.full((1, 4, 8, 8), 0.7)
    torch.testing.assert_close(blurred(flat, 2.0), flat)
    assert blurred(flat, 0.0) is flat
    mask = looked_at(torch.tensor([[1.5, 0.5, 1.0, 1.1]]), (2, 2), 4, 4)
    assert mask[0, 0, ::2, ::2].tolist() == [[1, 0], [0, 1]]


def test_a_perpendicular_negative_takes_nothing_from_the_positive(ctx, model, denoise, x, red, blue, clip, device):
    p, n, e = (noise(i, 1, 4, 8, 8) for i in range(3))
    target = perpendicular(p, n, e, 0.7)
    assert ((target - p) * (p - e)).sum().abs() < 1e-3
    torch.testing.assert_close(perpendicular(p, e + 2 * (p - e), e, 1.0), p)  # a negative along the positive
    from diffusion.text import encode

    empty = encode(clip, "", device)
    guided, preds = denoise(model, x, guidance=PerpNeg(red, blue, empty, 5.0, 0.7))
    wanted = preds["empty"] + 5 * (perpendicular(preds["positive"], preds["negative"], preds["empty"], 0.7) - preds["empty"])
    torch.testing.assert_close(guided, wanted)
    patched = perp_neg.PerpNeg(model=model, empty_conditioning=empty, neg_scale=0.7).run(ctx)
    torch.testing.assert_close(denoise(patched, x, scale=5.0)[0], guided, rtol=1e-4, atol=1e-4)
    guider = perp_neg.PerpNegGuider(model=model, positive=red, negative=blue, empty_conditioning=empty, cfg=5.0, neg_scale=0.7).run(ctx)
    torch.testing.assert_close(denoise(model, x, guidance=guider.guidance)[0], guided)


# -- the U-Net --


def test_only_low_frequencies_are_scaled():
    flat, wave = torch.ones(1, 2, 8, 8), torch.cos(torch.arange(8) * math.pi).expand(1, 2, 8, 8)
    torch.testing.assert_close(low_scaled(flat, 0.2), 0.2 * flat)
    torch.testing.assert_close(low_scaled(wave, 0.2), wave.contiguous())
    x = noise(0, 2, 3, 7, 6)
    torch.testing.assert_close(low_scaled(x, 1.0), x)


def test_the_backbone_is_amplified_in_its_first_half():
    h = noise(0, 2, 6, 4, 4)
    out = amplified(h, 1.5, by_mean=False)
    torch.testing.assert_close(out, torch.cat([h[:, :3] * 1.5, h[:, 3:]], 1))
    by_mean = amplified(h, 1.5, by_mean=True) / h
    assert by_mean[:, :3].amin() == pytest.approx(1, abs=1e-4)
    assert by_mean[:, :3].amax() == pytest.approx(1.5, abs=1e-4)
    torch.testing.assert_close(by_mean[:, 3:], torch.ones(2, 3, 4, 4))


@pytest.mark.parametrize("kind", [FreeU, FreeU_V2])
def test_free_u_without_factors_changes_nothing_and_with_them_only_the_second_width(ctx, model, denoise, x, kind):
    plain, _ = denoise(model, x)
    torch.testing.assert_close(denoise(kind(model=model, b1=1.0, b2=1.0, s1=1.0, s2=1.0).run(ctx), x)[0], plain, rtol=1e-4, atol=1e-4)
    # this U-Net is never four times as wide as its start
    torch.testing.assert_close(denoise(kind(model=model, b1=2.0, b2=1.0, s1=0.0, s2=1.0).run(ctx), x)[0], plain, rtol=1e-4, atol=1e-4)
    assert (denoise(kind(model=model).run(ctx), x)[0] - plain).abs().max() > 1e-2
    torch.testing.assert_close(denoise(model, x)[0], plain)


def test_merging_tokens_that_are_alike_loses_nothing():
    b, height, width = 2, 6, 8
    blocks = noise(0, b, height // 2, width // 2, 5)
    alike = blocks.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)  # four equal tokens in every 2 × 2
    for count in (1, 10, height * width * 3 // 4, 1000):
        merge, unmerge = matching(alike, height, width, count, torch.Generator().manual_seed(1))
        merged = merge(alike)
        assert merged.shape[1] == height * width - min(count, height * width * 3 // 4)
        torch.testing.assert_close(unmerge(merged), alike)


def test_merging_takes_means_and_keeps_the_rest():
    tokens = noise(0, 1, 25, 3)  # an odd side: the last row and column have no destination of their own
    merge, unmerge = matching(tokens, 5, 5, 7, torch.Generator().manual_seed(1))
    weights = merge(torch.eye(25)[None])[0]
    torch.testing.assert_close(weights.sum(1), torch.ones(18))
    torch.testing.assert_close(weights @ tokens[0], merge(tokens)[0])
    assert (unmerge(merge(tokens)) == tokens).all(-1).sum() >= 25 - 2 * 7


def test_merging_acts_at_full_size_only_and_ratio_zero_changes_nothing(ctx, model, denoise, x):
    plain, _ = denoise(model, x)
    assert torch.equal(denoise(TomePatchModel(model=model, ratio=0.0).run(ctx), x)[0], plain)
    watch = Watch()
    got, _ = denoise(TomePatchModel(model=model.patched(watch), ratio=0.5).run(ctx), x)
    assert {(scale, shape[2]) for scale, shape in watch.queries.values()} == {(1, 32), (2, 16)}
    assert (got - plain).abs().max() > 1e-3
    assert torch.equal(denoise(TomePatchModel(model=model, ratio=0.5).run(ctx), x)[0], got)


def test_cut_and_join_undo_each_other_and_a_tile_is_a_rectangle():
    x = torch.arange(48.0).view(1, 1, 48, 1)
    parts = cut(x, (6, 8), (2, 4))
    assert parts.shape == (1, 8, 6, 1)
    assert parts[0, 0, :, 0].tolist() == [0, 1, 8, 9, 16, 17]
    assert torch.equal(join(parts, (6, 8), (2, 4)), x)


def test_sides_are_cut_into_equal_tiles_of_at_least_the_least():
    generator = torch.Generator().manual_seed(0)
    assert tiles(64, 32, 2, generator) == 2
    assert tiles(64, 24, 1, generator) == 2
    assert tiles(97, 32, 5, generator) == 1  # a prime
    assert tiles(8, 32, 2, generator) == 1
    assert {tiles(96, 8, 4, generator) for _ in range(100)} == {12, 8, 6}  # not the fourth, 4


def test_tiles_look_at_themselves_only(ctx, model, denoise):
    x = noise(1, 1, 4, 8, 8)
    watch = Watch()
    denoise(HyperTile(model=model.patched(watch), tile_size=32).run(ctx), x)
    plain = {shape[1] for scale, shape in watch.queries.values() if scale == 2}
    assert {(scale, shape[1] // min(plain), shape[2]) for scale, shape in watch.queries.values() if scale == 1} <= {(1, 4, 16), (1, 2, 16)}
    assert {shape[2] for scale, shape in watch.queries.values() if scale == 2} == {16}
    flat = x.new_zeros(1, 4, 8, 8)
    assert (denoise(HyperTile(model=model, tile_size=32).run(ctx), x)[0] - denoise(model, x)[0]).abs().max() > 1e-3
    assert denoise(HyperTile(model=model, tile_size=2048).run(ctx), flat)[0].equal(denoise(model, flat)[0])


@pytest.mark.parametrize("after_skip", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (10, 14), (12, 20)])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_deep_shrink_works_at_smaller_sizes_inside_and_gives_the_old_one_outside(ctx, model, denoise, after_skip, size, number):
    x = noise(1, 1, 4, *size) * SIGMA
    watch = Watch()
    node = PatchModelAddDownscale(
        model=model.patched(watch), block_number=number, end_percent=1.0, downscale_after_skip=after_skip, downscale_factor=2.0
    )
    got, _ = denoise(node.run(ctx), x)
    assert got.shape == x.shape
    assert (got - denoise(model, x)[0]).abs().max() > 1e-3
    # U-Net of the tests: in.conv 0, down.0 1, its sampler 2, down.1 3
    inner = watch.blocks["mid.resnet.0"][0]
    whole = -(-size[0] // 2)
    assert inner in (round(whole / 2), -(-round(size[0] / 2) // 2))
    again = PatchModelAddDownscale(model=model, block_number=number, downscale_factor=1.0, end_percent=1.0).run(ctx)
    torch.testing.assert_close(denoise(again, x)[0], denoise(model, x)[0], rtol=1e-4, atol=1e-4)


def test_deep_shrink_holds_in_its_part_of_the_noise_range_only(ctx, model, denoise, x):
    patched = PatchModelAddDownscale(model=model, block_number=1, start_percent=0.0, end_percent=0.35).run(ctx)
    edge = model.process.table().percent_to_sigma(0.35)
    assert torch.equal(denoise(patched, x, edge * 0.99)[0], denoise(model, x, edge * 0.99)[0])
    assert not torch.equal(denoise(patched, x, edge * 1.01)[0], denoise(model, x, edge * 1.01)[0])
    with pytest.raises(ValueError, match="block_number: 1 to 3 is wanted for this model, 9 given"):
        denoise(PatchModelAddDownscale(model=model, block_number=9).run(ctx), x)


# -- the noise mask --


def test_grey_is_the_level_from_which_a_place_may_change(model):
    table = model.process.table()
    schedule = Schedule(table, [table.sigma(t) for t in (999, 750, 500, 250)] + [0.0])
    mask = torch.tensor([0.0, 0.3, 0.6, 1.0]).view(1, 1, 1, 4)
    open_at = [Differential().mask_at(mask, sigma, schedule).flatten().tolist() for sigma in schedule.sigmas[:-1]]
    assert open_at == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]
    soft = Differential(0.5).mask_at(mask, table.sigma(500), schedule).flatten()
    torch.testing.assert_close(soft, torch.tensor([0, 0.15, 0.8, 1.0]))


def test_differential_diffusion_keeps_black_and_without_a_mask_does_nothing(ctx, model, red, blue, device):
    patched = DifferentialDiffusion(model=model).run(ctx)
    sigmas = Sigmas(Schedule(model.process.table(), [5.0, 2.0, 0.5, 0.0]).table.sigmas_at(torch.tensor([900, 600, 200, 0])))
    start = noise(3, 1, 4, 8, 8)

    def run(model, mask):
        latent = Latent(start, noise_mask=mask)
        return sample(Guider(model, CFG(red, blue, 3.0)), Noise(0), Sampler.of("euler"), sigmas, latent, device)[1].x

    assert torch.equal(run(patched, None), run(model, None))
    ramp = torch.linspace(0, 1, 8).expand(1, 1, 8, 8).contiguous()
    hard = (ramp > 0.99).float()
    assert not torch.allclose(run(patched, ramp), run(model, ramp))
    torch.testing.assert_close(run(patched, hard), run(model, hard))
    torch.testing.assert_close(run(patched, hard)[..., 0], start[..., 0])
