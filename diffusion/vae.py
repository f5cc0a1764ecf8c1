"""Between pictures and latents. Latents here are unscaled; the sampler multiplies by the family's scale factor."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.family import LatentFormat, family
from diffusion.memory import TorchDevice
from diffusion.tiles import thrice
from diffusion.values import VAE, Image, Latent, Mask

PIXELS_AT_ONCE = 2**20  # larger batches go through in parts of at most so many pixels, or single pictures


def encode(vae: VAE, image: Image, device: TorchDevice) -> Latent:
    """The mode of the posterior, [b, c, H // f, W // f]: deterministic. Pictures are first cropped around the centre to multiples of f."""
    which = family(vae.weights.family)
    pixels = _centre_crop(image.pixels[..., :3], which.latent.factor)
    return Latent(_encode(vae, pixels, device), format=which.latent.name)


def decode(vae: VAE, latent: Latent, device: TorchDevice) -> Image:
    """Pictures from 0 to 1, [b, h·f, w·f, 3]; what leaves that range is clipped."""
    which = family(vae.weights.family)
    _check_latent(latent, which.latent)
    with device.weights(vae.weights) as module, torch.no_grad():
        pixels_each = latent.x.shape[2] * latent.x.shape[3] * which.latent.factor**2
        x = _in_parts(lambda part: which.decode(module, part), latent.x.to(device.torch, torch.float32), pixels_each)
    return Image(((x + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous())


def encode_tiled(vae: VAE, image: Image, tile: int, overlap: int, device: TorchDevice) -> Latent:
    """As `encode`, from tiles of `tile` × `tile` pixels that overlap; the network's memory does not grow with the picture."""
    which = family(vae.weights.family)
    factor = which.latent.factor
    pixels = _centre_crop(image.pixels[..., :3], factor)
    _check_size(pixels, factor)
    with device.weights(vae.weights) as module, torch.no_grad():
        x = pixels.to(device.torch, torch.float32).movedim(-1, 1) * 2 - 1
        latent = thrice(x, lambda part: which.encode(module, part), tile, overlap, 1 / factor)
    return Latent(latent, format=which.latent.name)


def decode_tiled(vae: VAE, latent: Latent, tile: int, overlap: int, device: TorchDevice) -> Image:
    """As `decode`, from tiles of `tile` × `tile` pixels that overlap; the network's memory does not grow with the picture."""
    which = family(vae.weights.family)
    _check_latent(latent, which.latent)
    factor = which.latent.factor
    with device.weights(vae.weights) as module, torch.no_grad():
        x = latent.x.to(device.torch, torch.float32)
        out = thrice(x, lambda part: which.decode(module, part), tile // factor, overlap // factor, factor)
    return Image(((out + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous())


def encode_for_inpaint(vae: VAE, image: Image, mask: Mask, grow: int, device: TorchDevice) -> Latent:
    """Encode pictures whose masked pixels (mask ≥ 0.5) are grey, with the mask, grown by about `grow` / 2 pixels, as noise mask.

    Such a latent has lost what was there and wants a denoise near 1.
    """
    if grow < 0:
        raise ValueError(f"grow: 0 or more pixels are wanted, {grow} given")
    which = family(vae.weights.family)
    pixels = image.pixels[..., :3].to(device.torch)
    resized = F.interpolate(mask.values[:, None].to(pixels), pixels.shape[1:3], mode="bilinear")
    pixels = _centre_crop(pixels, which.latent.factor)
    hole = _centre_crop(resized.movedim(1, -1), which.latent.factor).round()  # [b or 1, h, w, 1]
    x = _encode(vae, (pixels - 0.5) * (1 - hole) + 0.5, device)
    noise_mask = hole.movedim(-1, 1)
    if grow > 0:
        kernel = torch.ones(1, 1, grow, grow, device=noise_mask.device, dtype=noise_mask.dtype)
        grown = F.conv2d(noise_mask, kernel, padding=math.ceil((grow - 1) / 2)).clamp(0, 1)
        noise_mask = grown[..., : pixels.shape[1], : pixels.shape[2]].round()
    return Latent(x, noise_mask=noise_mask, format=which.latent.name)


def encode_beside(vae: VAE, image: Image, mask: Mask, device: TorchDevice) -> tuple[Latent, Tensor, Tensor]:
    """What an inpainting network sees: the picture's latent, that of the picture with its masked pixels grey, and the mask [b, 1, H, W].

    The mask is resized to the picture and cropped with it, not rounded.
    """
    which = family(vae.weights.family)
    resized = F.interpolate(mask.values[:, None].float(), image.pixels.shape[1:3], mode="bilinear")
    cropped = _centre_crop(resized.movedim(1, -1), which.latent.factor)
    pixels = _centre_crop(image.pixels[..., :3], which.latent.factor)
    erased = (pixels - 0.5) * (1 - cropped.round().to(pixels)) + 0.5
    return encode(vae, image, device), _encode(vae, erased, device), cropped.movedim(-1, 1)


def _encode(vae: VAE, pixels: Tensor, device: TorchDevice) -> Tensor:
    which = family(vae.weights.family)
    _check_size(pixels, which.latent.factor)
    with device.weights(vae.weights) as module, torch.no_grad():
        x = pixels.to(device.torch, torch.float32).movedim(-1, 1) * 2 - 1
        return _in_parts(lambda part: which.encode(module, part), x, pixels.shape[1] * pixels.shape[2])


def _check_latent(latent: Latent, wanted: LatentFormat) -> None:
    if None not in (latent.format, wanted.name) and latent.format != wanted.name:
        raise ValueError(f"decode: a {wanted.name} latent is wanted by this VAE, {latent.format} given")
    if latent.x.shape[1] != wanted.channels:
        raise ValueError(f"decode: {wanted.channels} latent channels are wanted by this VAE, {latent.x.shape[1]} given")


def _check_size(pixels: Tensor, factor: int) -> None:
    if pixels.shape[1] == 0 or pixels.shape[2] == 0:
        raise ValueError(f"encode: pictures of at least {factor} × {factor} pixels are wanted")


def _in_parts(run: Callable[[Tensor], Tensor], x: Tensor, pixels_each: int) -> Tensor:
    n = max(1, PIXELS_AT_ONCE // pixels_each)
    return torch.cat([run(x[i : i + n]) for i in range(0, len(x), n)])


def _centre_crop(x: Tensor, factor: int) -> Tensor:
    """[b, h, w, c] cropped around the centre to multiples of the factor."""
    height, width = (size // factor * factor for size in x.shape[1:3])
    top, left = (x.shape[1] % factor) // 2, (x.shape[2] % factor) // 2
    return x[:, top : top + height, left : left + width]
