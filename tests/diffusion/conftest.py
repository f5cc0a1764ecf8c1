"""A Stable-Diffusion-shaped checkpoint with small random weights, made once per test session, and what opens it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.text import encode
from diffusion.values import VAE, Clip, Conditioning, Model

WORDS = ["a", "red", "blue", "green", "big", "cat", "dog", "car", "table", "photograph", "of", "on", "the", "and", "wood", "literal"]
LENGTH = 12  # positions of a chunk: 10 tokens and begin and end


def write_checkpoint(folder: Path) -> None:
    """Write a diffusers folder: U-Net (32, 64) with one layer a block, text and cross-attention width 32, VAE (8, 8, 16, 16)."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocabulary = [*letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    CLIPTokenizer(ids, list(dict.fromkeys(merges)), model_max_length=LENGTH).save_pretrained(folder / "tokenizer")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(ids),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=ids["<|startoftext|>"],
                eos_token_id=ids["<|endoftext|>"],
                pad_token_id=ids["<|endoftext|>"],
                initializer_factor=10.0,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.18215,
            mid_block_add_attention=True,
        )
        for parameter in unet.parameters():  # random initialisation leaves attention next to uniform; sharpen it
            if parameter.ndim == 2:
                parameter.data *= 2
    text.save_pretrained(folder / "text_encoder")
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False).save_pretrained(
        folder / "scheduler"
    )
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(folder: Path) -> tuple[Model, Clip, VAE]:
    return open_checkpoint(folder)


@pytest.fixture(scope="session")
def model(checkpoint: tuple[Model, Clip, VAE]) -> Model:
    return checkpoint[0]


@pytest.fixture(scope="session")
def clip(checkpoint: tuple[Model, Clip, VAE]) -> Clip:
    return checkpoint[1]


@pytest.fixture(scope="session")
def vae(checkpoint: tuple[Model, Clip, VAE]) -> VAE:
    return checkpoint[2]


@pytest.fixture(scope="session")
def device() -> TorchDevice:
    return TorchDevice("cpu")


@pytest.fixture(scope="session")
def red(clip: Clip, device: TorchDevice) -> Conditioning:
    return encode(clip, "a photograph of a red cat", device)


@pytest.fixture(scope="session")
def blue(clip: Clip, device: TorchDevice) -> Conditioning:
    return encode(clip, "a blue dog", device)


@pytest.fixture(scope="session")
def guidance(red: Conditioning, blue: Conditioning) -> CFG:
    return CFG(red, blue, 3.0)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
