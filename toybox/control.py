"""The toybox's ControlNet (edges) and T2I-Adapter (coarse colours): their shapes, what they learn from, and files to ship."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from toybox.captions import caption
from toybox.ddim import Diffuser
from toybox.generator import Eager, alpha_bars
from toybox.hints import SHARES, colors_of, edges_of
from toybox.scenes import sample

EMPTY_SHARE = 0.5  # of the captions: a network that is told nothing must read the hint (Zhang et al. 2023, section 3.4)
FIRST_STEPS, BARE_SHARE = 950, 0.5  # colours: of the samples from this timestep on, this share is of noise alone
KINDS = ("edges", "colors")


def build(kind: str, unet: UNet2DConditionModel) -> nn.Module:
    """A new ControlNet (edges) that copies the U-Net's encoder and has no effect yet, or a new T2I-Adapter (colors) with little."""
    if kind == "edges":
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 24, 64, 128))
        net.set_attn_processor(Eager())
        return net
    if kind == "colors":
        adapter = T2IAdapter(in_channels=3, channels=list(unet.config.block_out_channels), num_res_blocks=2, downscale_factor=8)
        for stage in adapter.adapter.body:
            nn.init.zeros_(stage.resnets[-1].block2.weight)
            nn.init.zeros_(stage.resnets[-1].block2.bias)
        return adapter
    raise ValueError(f"control network: edges or colors is wanted, {kind!r} given")


def load(kind: str, folder: Path) -> nn.Module:
    """A shipped network, in float32. FileNotFoundError where it has not been trained."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no control network in {folder}: train one with `make train-toybox-control`")
    which = {"edges": ControlNetModel, "colors": T2IAdapter}[kind]
    net: nn.Module = which.from_pretrained(folder, torch_dtype=torch.float32)
    return net.eval().requires_grad_(False)


@dataclass
class Batch:
    """Everything the loss needs of b samples."""

    latents: Tensor  # (b, 4, 16, 16)
    tokens: Tensor  # (b, k)
    hints: Tensor  # (b, 3, 128, 128) in 0..1
    t: Tensor  # (b,)
    noise: Tensor  # (b, 4, 16, 16)


def batch(kind: str, data: dict[str, Tensor], hints: dict[str, Tensor], tokenizer: CLIPTokenizer, step: int, size: int) -> Batch:
    """A function of the step alone, so that runs resume exactly. Timesteps lean to noise: t = (1 - u³)·1000 (Mou et al. 2023).

    Even the noisiest level still shows the mean colour of a training picture, while sampling starts from noise whose mean says nothing
    (Lin et al. 2024, section 3.1). A network that is to tell colours therefore also learns from noise alone.
    """
    lot = torch.Generator().manual_seed(step)
    n, epoch_steps = len(data["latents"]), max(1, len(data["latents"]) // size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(step // epoch_steps))
    rows = order[(step % epoch_steps) * size :][:size]
    told = (torch.rand(len(rows), generator=lot) >= EMPTY_SHARE).tolist()
    said = [caption(sample(row), step * size + i).text if told[i] else "" for i, row in enumerate(rows.tolist())]
    if kind == "edges":
        which = torch.multinomial(torch.tensor(SHARES), len(rows), replacement=True, generator=lot)
        shown = edges_of(hints["edges"][rows, which])
    else:
        shown = colors_of(hints["colors"][rows])
    u = (torch.randperm(size, generator=lot)[: len(rows)] + torch.rand(len(rows), generator=lot)) / size
    t = (1000 * (1 - u**3)).long().clamp(max=999)
    latents, noise = data["latents"][rows].float(), torch.randn(len(rows), 4, 16, 16, generator=lot)
    if kind == "colors":
        bare = (t >= FIRST_STEPS) & (torch.rand(len(rows), generator=lot) < BARE_SHARE)
        noise = torch.where(bare[:, None, None, None], explained(noise, latents, t), noise)
    return Batch(
        latents=latents,
        tokens=tokenizer(said, padding="max_length", truncation=True, return_tensors="pt").input_ids,
        hints=shown,
        t=t,
        noise=noise,
    )


def explained(x_t: Tensor, latents: Tensor, t: Tensor) -> Tensor:
    """The noise that makes x_t, whatever it is, a noisy version of the latents."""
    a = alpha_bars()[t][:, None, None, None]
    return (x_t - a.sqrt() * latents) / (1 - a).sqrt()


def read_edges(encoder: nn.Module, shown: dict[str, Tensor], covered: Tensor, scale: float, steps: int = 600, size: int = 32) -> float:
    """Teach a new hint encoder (edges, (b, 3, 128, 128) to (b, c, 16, 16)) where objects are, before it meets the U-Net; the last loss.

    A head that is thrown away reads the coverage (n, 64, 64) by objects, 4x4 to a cell, out of the features. A ControlNet whose encoder
    starts at zero spends its first thousands of steps on finding that out (Zhang et al. 2023, section 3.4, "sudden convergence"). In the
    end the last layer is scaled so that the features have the standard deviation `scale`.
    """
    lot = torch.Generator().manual_seed(0)
    last = encoder.get_submodule("conv_out")
    assert isinstance(last, nn.Conv2d)
    nn.init.kaiming_normal_(last.weight, generator=lot)
    head = nn.Conv2d(last.out_channels, 16, 1)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 2e-3)
    device = last.weight.device
    head.to(device)
    for step in range(steps):
        rows = torch.randint(len(covered), (size,), generator=lot)
        which = torch.multinomial(torch.tensor(SHARES), size, replacement=True, generator=lot)
        found = head(encoder(edges_of(shown["edges"][rows, which]).to(device)))
        loss = F.binary_cross_entropy_with_logits(found, F.pixel_unshuffle(covered[rows, None].to(device), 4))
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, step / 20) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        now = encoder(edges_of(shown["edges"][:64, 0]).to(device)).std()
        last.weight *= scale / now
        last.bias *= scale / now
    return loss.item()


class Control:
    """A control network at the side of the frozen model."""

    def __init__(self, kind: str, net: nn.Module, model: Diffuser, device: str = "cpu") -> None:
        self.kind, self.net, self.unet, self.text = kind, net.to(device), model.unet.to(device), model.text_encoder.to(device)
        self.unet.set_attn_processor(Eager())
        self.alpha_bar = alpha_bars().to(device)

    def residuals(self, x: Tensor, t: Tensor, words: Tensor, hints: Tensor, strength: float = 1.0) -> dict[str, Any]:
        """What the U-Net's forward takes beside its inputs."""
        if self.kind == "edges":
            down, mid = self.net(x, t, words, hints, strength, return_dict=False)
            return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return {"down_intrablock_additional_residuals": [feature * strength for feature in self.net(hints)]}

    def loss(self, b: Batch, strength: float = 1.0) -> Tensor:
        """The noise-prediction loss, weighted 1/√SNR: the layout, which a hint is about, is decided at the noisy end."""
        a = self.alpha_bar[b.t][:, None, None, None]
        x_t = a.sqrt() * b.latents + (1 - a).sqrt() * b.noise
        with torch.no_grad():
            words = self.text(b.tokens).last_hidden_state
        eps = self.unet(x_t, b.t, words, **self.residuals(x_t, b.t, words, b.hints, strength)).sample
        weight = ((1 - a) / a).sqrt().flatten()
        return (weight * (eps.float() - b.noise).square().mean((1, 2, 3))).mean()


def export(net: Any, folder: Path) -> None:
    """Write a diffusers folder in half precision; the network's own weights become half, too."""
    for parameter in net.parameters():
        parameter.data = parameter.data.to(torch.float16, memory_format=torch.contiguous_format)
    net.save_pretrained(folder)
