"""Training of the U-Net and the text encoder: what noise is in this latent, given these words?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from toybox import together
from toybox.batches import Batch, batch
from toybox.optim import MuonAdamW
from toybox.run import Run
from toybox.tokenizer import CONTEXT


@dataclass(frozen=True)
class Size:
    """How large the networks are."""

    channels: tuple[int, int] = (64, 160)
    width: int = 128
    layers: int = 3
    groups: int = 16


FULL = Size()
MINIATURE = Size(channels=(16, 32), width=32, layers=1, groups=8)


def build_unet(size: Size) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=size.channels,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=size.width,
        attention_head_dim=4,  # by an old slip of diffusers this is the number of heads
        norm_num_groups=size.groups,
    )


def build_text(size: Size, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=4 * size.width,
        projection_dim=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def alpha_bars() -> Tensor:
    """The cumulative signal power of Stable Diffusion's scaled-linear schedule, 1,000 steps."""
    return (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


class Generator(nn.Module):
    """What trains together: the U-Net, the text encoder and a small head that reads the layout off the text."""

    def __init__(self, size: Size, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = build_unet(size)
        self.text = build_text(size, tokenizer)
        self.layout = nn.Sequential(nn.Linear(size.width, size.width), nn.SiLU(), nn.Linear(size.width, 4))
        self.unet.set_attn_processor(Eager())
        self.alpha_bar: Tensor
        self.register_buffer("alpha_bar", alpha_bars(), persistent=False)

    def forward(self, b: Batch) -> dict[str, Tensor]:
        """The losses, each a mean over the batch."""
        words = self.text(b.tokens).last_hidden_state
        a = self.alpha_bar[b.t][:, None, None, None]
        x_t = a.sqrt() * b.latents + (1 - a).sqrt() * b.noise
        with recorded(self.unet) as maps:
            eps = self.unet(x_t, b.t, words, encoder_attention_mask=b.visible).sample
        snr = (a / (1 - a)).flatten()
        # min-SNR (Hang et al. 2023), for noise prediction; and more where all but the layout is lost in noise
        weight = snr.clamp(max=5) / snr * (0.25 / snr).clamp(1, 16).sqrt()
        losses = {
            "noise": (weight * (eps.float() - b.noise).square().mean((1, 2, 3))).mean(),
            "attention": sum(attention_loss(m.float(), b) for m in maps) / len(maps),
        }
        end = words[torch.arange(len(words)), (b.tokens == self.text.config.eos_token_id).int().argmax(1)]
        told = ~b.centres.isnan()
        losses["layout"] = ((self.layout(end).float().view_as(b.centres) - b.centres.nan_to_num()) * told).square().mean()
        return losses


WEIGHTS = {"noise": 1.0, "attention": 0.06, "layout": 0.02}


def attention_loss(probabilities: Tensor, b: Batch) -> Tensor:
    """How far the words' maps (b, q, k) lie outside what they speak of, and how unevenly they cover it."""
    side = int(probabilities.shape[1] ** 0.5)
    areas = F.adaptive_avg_pool2d(b.areas, side).flatten(2)  # (b, 3, q)
    target = areas / areas.sum(2, keepdim=True).clamp(min=1e-4)
    inside = areas / areas.amax(2, keepdim=True).clamp(min=1e-4)
    spread = probabilities / probabilities.sum(1, keepdim=True).clamp(min=1e-8)
    outside = 1 - torch.bmm(inside, spread)  # (b, 3, k)
    divergence = (target * (target + 1e-8).log()).sum(2, keepdim=True) - torch.bmm(target, (spread + 1e-5).log())
    return (b.speaks * (outside + 0.6 * divergence)).sum() / b.speaks.sum().clamp(min=1)


class Eager:
    """Plain attention; on CPUs its backward pass beats the fused kernel's. Keeps head-averaged cross maps when asked."""

    def __init__(self) -> None:
        self.maps: list[Tensor] | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states * attn.scale), attn.to_k(context), attn.to_v(context)
        q, k, v = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(2, 3)
        if attention_mask is not None:
            scores = scores + attention_mask[:, None].to(scores.dtype)
        probabilities = scores.softmax(-1)
        if self.maps is not None and encoder_hidden_states is not None:
            self.maps.append(probabilities.mean(1))
        return attn.to_out[0]((probabilities @ v).transpose(1, 2).flatten(2))


@contextmanager
def recorded(unet: UNet2DConditionModel) -> Iterator[list[Tensor]]:
    """The head-averaged cross-attention maps of what runs inside, (b, q, k) each, in the order of their layers."""
    processor = next(iter(unet.attn_processors.values()))
    maps: list[Tensor] = []
    processor.maps = maps
    try:
        yield maps
    finally:
        processor.maps = None


def train(
    run: Run,
    device: str,
    data: dict[str, Tensor],
    tokenizer: CLIPTokenizer,
    size: Size = FULL,
    batch_size: int = 32,
    lr: float = 2e-3,
    decay: float = 0.998,
    until: int | None = None,
) -> Generator:
    """Train with a warm-up of 100 steps and a linear decay, or only `until` a step of it; returns the average of the weights."""
    torch.manual_seed(0)
    model = Generator(size, tokenizer)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = MuonAdamW(model.named_parameters(), lr)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    if state := run.resume():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    seen: dict[str, list[float]] = {}
    clock = run.elapsed
    progress = run.progress
    while progress < 1 and run.step != until:
        b = together.own_part(vars(batch(data, tokenizer, run.step, batch_size)))
        b = Batch(**{k: v.to(device) for k, v in b.items()})
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # on CPUs without AMX bf16 is slower
            losses = model(b)
        sum(WEIGHTS[k] * v for k, v in losses.items()).backward()
        progress = together.average_gradients(model.parameters(), run.progress)
        optimizer.step(min(1.0, (run.step + 1) / 100) * max(1 - progress, 0.02))
        run.step += 1
        keep = min(decay, run.step / (run.step + 10))
        torch._foreach_lerp_(list(average.values()), list(model.state_dict().values()), 1 - keep)
        for k, v in losses.items():
            seen.setdefault(k, []).append(v.item())
        if run.step % 50 == 0 and together.rank() == 0:
            rate, clock = 50 * batch_size / (run.elapsed - clock), run.elapsed
            run.log(" ".join(f"{k} {sum(v) / len(v):.4f}" for k, v in seen.items()) + f" {rate:.1f} samples/s")
            seen.clear()
        if run.save_due and together.rank() == 0:
            run.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    if together.rank() == 0:
        run.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    model.load_state_dict(average)
    return model


def read(path: Path, tokenizer: CLIPTokenizer, size: Size = FULL) -> Generator:
    """The averaged weights of a checkpoint."""
    model = Generator(size, tokenizer)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    return model.eval()
