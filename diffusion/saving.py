"""Models as tensors with the names that checkpoint files use, their weight patches worked in."""

from __future__ import annotations

from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.values import VAE, Clip, Model
from diffusion.weights import opened


def model_tensors(model: Model, device: TorchDevice) -> dict[str, Tensor]:
    """The denoiser's weights; marks tell a v-prediction and a terminal SNR of zero. Raises ValueError where the layout cannot hold them."""
    import torch

    from diffusion.family.saving import unet_tensors

    with opened(model.weights, model.patches, device.weights) as unet:
        tensors = unet_tensors(unet)
    if model.process.prediction == "sample":
        raise ValueError("a model that predicts the picture itself cannot be written: checkpoint files do not tell it")
    if model.process.prediction == "v_prediction":
        tensors["v_pred"] = torch.zeros(0)
    if model.process.zero_terminal_snr:
        tensors["ztsnr"] = torch.zeros(0)
    return tensors


def clip_tensors(clip: Clip, device: TorchDevice) -> dict[str, Tensor]:
    """The text encoders' weights as they lie in a whole checkpoint."""
    from diffusion.family.saving import text_tensors

    with opened(clip.weights, clip.patches, device.weights) as part:
        return text_tensors(part, clip.weights.family)


def tower_files(clip: Clip, device: TorchDevice) -> dict[str, dict[str, Tensor]]:
    """Each text encoder's weights as they lie in a file of their own, by the encoder's name (l, h, g)."""
    from diffusion.family.saving import tower_tensors

    with opened(clip.weights, clip.patches, device.weights) as part:
        return {
            tower.name: {
                name if name.startswith("text_projection") else f"text_model.{name}": t for name, t in tower_tensors(tower).items()
            }
            for tower in part.towers  # type: ignore[union-attr]  # a family's text part offers TextPart
        }


def vae_tensors(vae: VAE, device: TorchDevice, *, whole: bool) -> dict[str, Tensor]:
    """The VAE's weights, as in a whole checkpoint or as in a file of their own."""
    from diffusion.family.saving import vae_tensors as named

    with device.weights(vae.weights) as module:
        return named(module, "first_stage_model." if whole else "")
