"""The trainings in miniature: they repeat, resume exactly, and export a folder that diffusers reads."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from toybox import batches, generator, latents, tokenizer, vae
from toybox.export import export
from toybox.optim import MuonAdamW
from toybox.run import Run


@pytest.fixture(scope="module")
def data() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return latents.encode_scenes(vae.build(vae.MINIATURE), 0, 16, "cpu")


def small_vae(folder: Path, steps: int) -> dict[str, Tensor]:
    return vae.train(Run(folder, "vae", 1, steps), "cpu", vae.MINIATURE, count=4).state_dict()


def small_unet(folder: Path, data: dict[str, Tensor], until: int) -> dict[str, Tensor]:
    run = Run(folder, "unet", 1, 4)
    return generator.train(run, "cpu", data, tokenizer.build(), generator.MINIATURE, batch_size=4, until=until).state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


def test_a_unet_run_resumes_bit_equal(data: dict[str, Tensor], tmp_path: Path) -> None:
    small_unet(tmp_path / "cut", data, until=2)
    assert equal(small_unet(tmp_path / "cut", data, until=4), small_unet(tmp_path / "whole", data, until=4))


def test_a_vae_run_repeats(tmp_path: Path) -> None:
    assert equal(small_vae(tmp_path / "a", 2), small_vae(tmp_path / "b", 2))


def test_an_anchored_autoencoder_goes_on_from_the_anchor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    anchor, images = vae.build(vae.MINIATURE).requires_grad_(False), vae.to_signed(vae.pictures(0, 2))
    before = anchor.encode(images).latent_dist.mean
    after = vae.train(Run(tmp_path, "vae", 1, steps=2), "cpu", vae.MINIATURE, count=4, lr=1e-4, anchor=anchor)
    moved = (after.encode(images).latent_dist.mean - before).abs().mean()
    assert 0 < moved < 0.1 * before.std()
    assert torch.equal(anchor.encode(images).latent_dist.mean, before)


def test_folding_normalises_the_latents_and_changes_no_picture() -> None:
    torch.manual_seed(0)
    small, images = vae.build(vae.MINIATURE), vae.to_signed(vae.pictures(0, 8))
    with torch.no_grad():
        before = small.decode(small.encode(images).latent_dist.mean).sample
        latents.fold_normalization(small, images)
        z = small.encode(images).latent_dist.mean
        after = small.decode(z).sample
    scaled = (z * vae.SCALING).transpose(0, 1).flatten(1)
    assert torch.allclose(before, after, atol=1e-3)
    assert scaled.mean(1).abs().max() < 1e-2
    assert (scaled.std(1) - 1).abs().max() < 1e-2


def test_a_batch_says_where_its_words_belong(data: dict[str, Tensor]) -> None:
    b = batches.batch(data, tokenizer.build(), step=3, size=8)
    again = batches.batch(data, tokenizer.build(), step=3, size=8)
    assert all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(vars(b).values(), vars(again).values(), strict=True))
    assert b.latents.shape == (8, 4, 16, 16)
    assert b.tokens.shape == (8, 32)
    assert torch.allclose(b.areas.sum(1), torch.ones(8, 16, 16), atol=0.02)
    assert (b.speaks.sum(1) <= 1).all()
    assert b.visible[:, 0].all()
    assert not (b.speaks.sum(1).bool() & ~b.visible).any()


def test_attention_inside_its_mask_costs_less_than_outside(data: dict[str, Tensor]) -> None:
    b = batches.batch(data, tokenizer.build(), step=1, size=4)
    where = torch.einsum("bck,bcq->bqk", b.speaks, b.areas.flatten(2))
    assert generator.attention_loss(where, b) < 0.5 * generator.attention_loss(1 - where, b)


def test_the_optimizer_moves_kernels_in_either_memory_format() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 32, 3)
    last = nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last)
    last.load_state_dict(plain.state_dict())
    x = torch.randn(2, 16, 8, 8)
    for module in (plain, last):
        optimizer = MuonAdamW(module.named_parameters(), 1e-2)
        module(x).square().mean().backward()
        optimizer.step(1.0)
    assert torch.allclose(plain.weight, last.weight, atol=2e-4)
    assert not torch.allclose(plain.weight, nn.Conv2d(16, 32, 3).weight)


def test_the_exported_folder_is_a_stable_diffusion_pipeline(tmp_path: Path) -> None:
    model = generator.Generator(generator.MINIATURE, tokenizer.build())
    export(model, vae.build(vae.MINIATURE), tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    image = pipeline("a red star", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 128, 128, 3)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.vae.config.scaling_factor == vae.SCALING
    assert pipeline.text_encoder.config.eos_token_id == pipeline.tokenizer.eos_token_id
