"""ControlNets (Zhang et al. 2023), unions of them (Li et al., ControlNet++ 2024) and T2I-Adapters, as networks.

The blocks are diffusers'; files come in the original layout or in diffusers'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from diffusion.control.adapter import from_tensors
from diffusion.control.file import contents, is_adapter
from diffusion.control.names import config_of, renamed, shapes_of
from diffusion.loading import fill, read_json
from diffusion.values import WeightsRef

UNION = ("task_embedding", "transformer_layes", "spatial_ch_projs", "control_add_embedding")


class Net(nn.Module):
    """A ControlNet: residuals for the skip connections and the middle, from a noisy latent, the text and a hint."""

    def __init__(self, body: ControlNetModel, union: Union | None) -> None:
        super().__init__()
        self.body, self.union = body, union
        self.channels, self.hint_channels = int(body.config.in_channels), int(body.config.conditioning_channels)
        self.widths = tuple(body.config.block_out_channels)
        # of the text; small ones of SDXL read none
        self.text = next((int(w.shape[1]) for name, w in body.named_parameters() if name.endswith("attn2.to_k.weight")), None)
        self.pooled = bool(body.config.global_pool_conditions)
        # one convolution of stride 2 between each two widths
        self.factor = 2 ** (len(body.config.conditioning_embedding_out_channels) - 1)

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, hint: Tensor, added: Mapping[str, Tensor], types: Sequence[int] = ()
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Residuals of rows x [rows, c, h, w] at timesteps t [rows], told by context [rows, n, d] and hint [1 or rows, 3, H, W] in 0..1."""
        return self.steer(x, t, context, self.see(hint, types), added, types)

    def see(self, hint: Tensor, types: Sequence[int] = ()) -> Tensor:
        """The features of a hint, [b, c, h, w]: the part that does not depend on the step, so that one evaluation serves a run."""
        if self.body.config.controlnet_conditioning_channel_order == "bgr":
            hint = hint.flip(1)
        guide: Tensor = self.body.controlnet_cond_embedding(hint)
        return guide if self.union is None else self.union.fused(guide, types)

    def steer(
        self, x: Tensor, t: Tensor, context: Tensor, guide: Tensor, added: Mapping[str, Tensor], types: Sequence[int] = ()
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The same residuals from a hint's features [1 or rows, c, h, w]."""
        body = self.body
        emb = body.time_embedding(body.time_proj(t).to(x.dtype))
        if body.config.addition_embed_type == "text_time":
            if "text_embeds" not in added:
                raise ValueError("ControlNet: it is of SDXL and wants pooled text and sizes, which this model does not tell")
            ids = body.add_time_proj(added["time_ids"].flatten()).view(len(added["text_embeds"]), -1)
            emb = emb + body.add_embedding(torch.cat([added["text_embeds"].to(x.dtype), ids.to(x.dtype)], dim=-1))
        if self.union is not None:
            emb = emb + self.union.told(types, x.dtype)
        h = body.conv_in(x) + guide
        skips = [h]
        for block in body.down_blocks:
            if getattr(block, "has_cross_attention", False):
                h, more = block(hidden_states=h, temb=emb, encoder_hidden_states=context)
            else:
                h, more = block(hidden_states=h, temb=emb)
            skips += more
        told = {"encoder_hidden_states": context} if hasattr(body.mid_block, "has_cross_attention") else {}
        h = body.mid_block(h, emb, **told)
        return tuple(zero(skip) for zero, skip in zip(body.controlnet_down_blocks, skips, strict=True)), body.controlnet_mid_block(h)


class Union(nn.Module):
    """What a union adds: it is told which kinds of hint it gets, and a transformer weighs them."""

    def __init__(self, kinds: int, hint: int, layers: int, width: int, embedding: int) -> None:
        super().__init__()
        self.task_embedding = nn.Parameter(torch.empty(kinds, hint))
        self.transformer_layes = nn.ModuleList(_Layer(hint) for _ in range(layers))  # the files' own spelling
        self.spatial_ch_projs = nn.Linear(hint, hint)
        self.control_add_embedding = nn.ModuleDict({"linear_1": nn.Linear(width, embedding), "linear_2": nn.Linear(embedding, embedding)})
        self.each = width // kinds  # sinusoids for one kind

    def told(self, types: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The embedding of which kinds there are, [1, d]."""
        flags = torch.zeros(len(self.task_embedding), device=self.task_embedding.device)
        flags[list(types)] = 1
        waves = get_timestep_embedding(flags, self.each, flip_sin_to_cos=True, downscale_freq_shift=0).to(dtype).view(1, -1)
        first, second = self.control_add_embedding["linear_1"], self.control_add_embedding["linear_2"]
        return second(F.silu(first(waves)))

    def fused(self, guide: Tensor, types: Sequence[int]) -> Tensor:
        """The hint's features [b, c, h, w], shifted for their kind; as they are when no kind is told."""
        if not types:
            return guide
        kinds = len(self.task_embedding)
        if wrong := [kind for kind in types if kind >= kinds]:
            raise ValueError(f"control type {wrong[0]}: this union knows {kinds} kinds, numbered from 0")
        seen = (guide.mean((2, 3)) + self.task_embedding[types[0]].to(guide.dtype))[:, None]
        for layer in self.transformer_layes:
            seen = layer(seen)
        return guide + self.spatial_ch_projs(seen[:, 0])[..., None, None]


class _Layer(nn.Module):
    """A residual attention block of CLIP (Radford et al. 2021), 8 heads, quick GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 8, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](h * torch.sigmoid(1.702 * h))


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The side network of a file or of a diffusers folder."""
    path = Path(ref.source)
    tensors = contents(path)
    if is_adapter(tensors):
        return from_tensors(tensors, dtype, path)
    names = renamed(tensors)
    return build({names[old]: tensor for old, tensor in tensors.items() if old in names}, dtype, path)


SHARED = ("conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block")  # of a U-Net, in ControlNets


def beside(unet: nn.Module, ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """A ControlNet that a file tells as a difference from a U-Net: `difference` files in full, Control-LoRAs as products of two matrices.

    Weights that the file has no difference for are the U-Net's; those that the U-Net does not have are the file's own.
    """
    source, model = Path(ref.source), cast("Any", unet)
    tensors = contents(source)
    names = renamed(tensors)
    told = {names[old]: tensor for old, tensor in tensors.items() if old in names and tensor.ndim > 0}
    weights = {name: tensor for name, tensor in unet.state_dict().items() if name.split(".")[0] in SHARED}
    lora = any(name.endswith("lora_controlnet") for name in tensors)
    for name, tensor in told.items():
        stem, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias", "up"):
            continue
        if kind == "up":
            if f"{stem}.weight" not in weights or f"{stem}.down" not in told:
                raise ValueError(f"{source.name}: {stem} is changed by a product of matrices, but the model has no such weight")
            old = weights[f"{stem}.weight"]
            product = tensor.flatten(1).to(old.device).float() @ told[f"{stem}.down"].flatten(1).to(old.device).float()
            weights[f"{stem}.weight"] = (old.float() + product.view(old.shape)).to(dtype)
        elif lora or name not in weights:
            weights[name] = tensor.to(model.device)
        else:
            weights[name] = (weights[name].float() + tensor.to(model.device).float()).to(dtype)
    heads = {key: model.config[key] for key in ("attention_head_dim", "num_attention_heads", "norm_num_groups", "act_fn")}
    return build(weights, dtype, source, heads).eval().requires_grad_(False)


def build(tensors: Mapping[str, Tensor], dtype: torch.dtype, source: Path, told: Mapping[str, Any] | None = None) -> Net:
    """A ControlNet with these weights, under diffusers' names; its architecture from the folder's config.json, else from their shapes."""
    config: dict[str, Any] = read_json(source / "config.json") if (source / "config.json").is_file() else config_of(shapes_of(tensors))
    config.update(told or {})
    config.pop("_class_name", None)
    with torch.device("meta"):
        body = ControlNetModel.from_config(config)
        own = {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in UNION}
        union = _union(own) if own else None
    fill(body, {name: tensor for name, tensor in tensors.items() if name not in own}, dtype, source)
    if union is not None:
        fill(union, own, dtype, source)
    return Net(body, union)


def _union(own: Mapping[str, Tensor]) -> Union:
    kinds, hint = own["task_embedding"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in own if name.startswith("transformer_layes."))
    embedding, width = own["control_add_embedding.linear_1.weight"].shape
    return Union(kinds, hint, layers, width, embedding)
