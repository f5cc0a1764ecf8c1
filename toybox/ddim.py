"""The toybox model on its own: text to picture, picture to noise and back, and where words look. For training checks and the gates.

Everything computes in float32 on plain diffusers modules, with the deterministic sampler of Song et al. (2021), equation 12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from toybox import WEIGHTS

NOWHERE = -1  # the level below timestep 0


@dataclass(frozen=True, slots=True)
class Diffuser:
    """The model's parts, and its noise levels as a table."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler

    @classmethod
    def load(cls, folder: str | Path = WEIGHTS) -> Self:
        """A diffusers folder, in float32. FileNotFoundError where it has no U-Net."""
        folder = Path(folder)
        if not (folder / "unet" / "config.json").is_file():
            raise FileNotFoundError(f"no model in {folder}: train one with `make train-toybox`")
        parts = {
            "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
            "vae": AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32),
            "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        }
        for part in parts.values():
            part.eval().requires_grad_(False)
        parts["unet"].to(memory_format=torch.channels_last)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        return cls(tokenizer, **parts, scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"))

    def text(self, texts: Sequence[str]) -> Tensor:
        """The text encoder's states, (b, tokens, width)."""
        tokens = self.tokenizer(
            list(texts), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids).last_hidden_state

    def latents(self, pictures: Tensor) -> Tensor:
        """Pictures (b, h, w, 3) in 0..1 to latents (b, 4, h / 8, w / 8) of unit variance; the posterior's mode."""
        z = self.vae.encode(pictures.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
        return z * self.vae.config.scaling_factor

    def pictures(self, latents: Tensor) -> Tensor:
        """Latents to pictures (b, h, w, 3) in 0..1."""
        y = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return (y / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)

    def level(self, t: int) -> tuple[float, float]:
        """How much signal and how much noise there is at a timestep: alpha and sigma, alpha² + sigma² = 1."""
        bar = self.scheduler.final_alpha_cumprod if t == NOWHERE else self.scheduler.alphas_cumprod[t]
        return float(bar) ** 0.5, float(1 - bar) ** 0.5

    def timesteps(self, steps: int) -> list[int]:
        """From the most noise to the least, and then NOWHERE."""
        self.scheduler.set_timesteps(steps)
        return [*self.scheduler.timesteps.tolist(), NOWHERE]

    def predict(self, x: Tensor, t: int, text: Tensor) -> tuple[Tensor, Tensor]:
        """The noise and the clean latents that the network sees in x at timestep t."""
        alpha, sigma = self.level(t)
        out = self.unet(x.contiguous(memory_format=torch.channels_last), t, encoder_hidden_states=text).sample
        if self.scheduler.config.prediction_type == "v_prediction":
            return alpha * out + sigma * x, alpha * x - sigma * out
        return out, (x - sigma * out) / alpha

    def guided(self, x: Tensor, t: int, text: Tensor, empty: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
        """Classifier-free guidance (Ho & Salimans 2022, equation 6): away from the empty caption by the factor `guidance`."""
        if guidance == 1:
            return self.predict(x, t, text)
        pairs = self.predict(torch.cat((x, x)), t, torch.cat((empty.expand_as(text), text)))
        (eps_empty, eps_text), (x0_empty, x0_text) = (value.chunk(2) for value in pairs)
        return torch.lerp(eps_empty, eps_text, guidance), torch.lerp(x0_empty, x0_text, guidance)

    @torch.no_grad()
    def sample(self, texts: Sequence[str], seeds: Sequence[int], steps: int = 50, guidance: float = 5.0) -> Tensor:
        """Pictures (b, 128, 128, 3) for captions; each from the noise of its own seed, whatever batch it is in."""
        return self.pictures(self.denoise(noise(seeds, self.unet.config.sample_size), self.text(texts), steps, guidance))

    @torch.no_grad()
    def denoise(self, x: Tensor, text: Tensor, steps: int, guidance: float = 1.0) -> Tensor:
        """Noise to latents."""
        empty = self.text([""])
        ts = self.timesteps(steps)
        for t, u in pairwise(ts):
            eps, x0 = self.guided(x, t, text, empty, guidance)
            alpha, sigma = self.level(u)
            x = alpha * x0 + sigma * eps
        return x

    @torch.no_grad()
    def invert(self, x: Tensor, text: Tensor, steps: int, iterations: int = 0) -> Tensor:
        """Latents to the noise that `denoise` leads from, at guidance 1: each step asks the network at the level it goes to.

        That answer belongs to the step's end, which is not known yet; it is taken at the start, and then, `iterations` times,
        at the end found so far (fixed-point inversion, Pan et al. 2023).
        """
        ts = self.timesteps(steps)[::-1]
        for u, t in pairwise(ts):
            (alpha_u, sigma_u), (alpha, sigma) = self.level(u), self.level(t)
            end = x
            for _ in range(1 + iterations):
                eps, _ = self.predict(end, t, text)
                end = alpha * (x - sigma_u * eps) / alpha_u + sigma * eps
            x = end
        return x

    @torch.no_grad()
    def looked_at(self, x: Tensor, t: int, text: Tensor, side: int = 16) -> Tensor:
        """Cross-attention at one timestep, the mean over heads and over the layers of side x side sites: (b, tokens, side, side)."""
        with _watched(self.unet, side * side) as seen:
            self.predict(x, t, text)
        if not seen:
            raise ValueError(f"the U-Net has no cross-attention at {side} x {side} sites for latents {list(x.shape)}")
        return torch.stack(seen).mean(0).transpose(1, 2).unflatten(2, (side, side))


def noise(seeds: Sequence[int], side: int) -> Tensor:
    """Unit noise (b, 4, side, side), each from its own generator."""
    return torch.stack([torch.randn(4, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


class _Watch:
    """Attention by the book (Vaswani et al. 2017, equation 1), whose probabilities, averaged over heads, are kept."""

    def __init__(self, sites: int, seen: list[Tensor]) -> None:
        self.sites, self.seen = sites, seen

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        p = (q @ k.mT * attn.scale).softmax(-1)
        if p.shape[2] == self.sites:
            self.seen.append(p.mean(1))
        out = (p @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


@contextmanager
def _watched(unet: UNet2DConditionModel, sites: int) -> Iterator[list[Tensor]]:
    before = dict(unet.attn_processors)
    seen: list[Tensor] = []
    watch = _Watch(sites, seen)
    unet.set_attn_processor({name: watch if ".attn2." in name else processor for name, processor in before.items()})
    try:
        yield seen
    finally:
        unet.set_attn_processor(before)
