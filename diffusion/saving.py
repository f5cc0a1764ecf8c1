"""Models as tensors with the names that checkpoint files use, their weight patches worked in."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.process import Process
from diffusion.values import VAE, Clip, Model
from diffusion.weights import opened


def model_tensors(model: Model, device: TorchDevice) -> dict[str, Tensor]:
    """The denoiser's weights, and marks of what it predicts. Raises ValueError where the layout cannot hold or tell them."""
    from diffusion.family.saving import unet_tensors

    marks = _marks(model.process)
    with opened(model.weights, model.patches, device.weights) as unet:
        return unet_tensors(unet) | marks


def metadata(model: Model) -> dict[str, str]:
    """What a file says of the denoiser in words, so that nobody has to guess from its weights."""
    return {"modelspec.prediction_type": "v" if model.process.prediction == "v_prediction" else "epsilon"}


def _marks(process: Process) -> dict[str, Tensor]:
    """Tensors that tell of a v-prediction, of a terminal SNR of zero and of the levels of training."""
    told = Process(process.prediction, zero_terminal_snr=process.zero_terminal_snr, levels=process.levels)
    known = ("v_prediction",) if process.levels else ("epsilon", "v_prediction")
    if process != told or process.prediction not in known:
        raise ValueError(
            f"a model trained as {process.prediction} on {process.beta_schedule} levels cannot be written, since files do not tell it; "
            "epsilon and v_prediction on Stable Diffusion's levels can, so save it from before its sampling was changed"
        )
    marks = {"v_pred": torch.zeros(0)} if process.prediction == "v_prediction" else {}
    if process.zero_terminal_snr:
        marks["ztsnr"] = torch.zeros(0)
    if process.levels is not None:
        ends = ("edm_vpred.sigma_min", "edm_vpred.sigma_max")
        marks |= {end: torch.tensor(level, dtype=torch.float64) for end, level in zip(ends, process.levels, strict=True)}
    return marks


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
