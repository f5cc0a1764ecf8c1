"""A diffusers folder: whether its weights are all there, and what its scheduler says that the model was trained to undo."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch

from diffusion.family.checkpoint import spreads
from diffusion.family.parts import tower_in, unet_in, vae_in
from diffusion.family.structure import read_diffusers
from diffusion.loading import fill, read_json, stamps, weights_in
from diffusion.process import Process

INPUTS = (4, 8, 9)  # channels: a latent's, with a picture's beside it (InstructPix2Pix), with a mask as well (inpainting)


def check(root: Path, parts: Iterable[str]) -> None:
    """Raise ValueError or OSError when weights of these parts are missing or do not fit the configuration beside them; nothing is read."""
    for part in parts:
        _check(root, part, stamps(root / part))


@lru_cache(maxsize=64)  # a graph opens its checkpoint in every run; the same files fit still
def _check(root: Path, part: str, files: tuple[tuple[str, int, int], ...]) -> None:
    folder = root / part
    if part == "unet":
        found = unet_in(folder, meta=True)
        if found[0].config.in_channels not in INPUTS:
            raise ValueError(f"{folder}: a U-Net with 4, 8 or 9 input channels is wanted, {found[0].config.in_channels} found")
    elif part.startswith("text_encoder"):
        found = tower_in(root, part.removeprefix("text_encoder"), meta=True)
    else:
        found = vae_in(folder, meta=True)
    fill(*found, torch.float32, folder)


def process(root: Path) -> Process:
    """What a model was trained to undo: as its scheduler says, or without one as for a file that does not say.

    Raises ValueError for what no process here is like.
    """
    path = root / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return Process("v_prediction" if _spreads(root / "unet") else "epsilon")
    config, default = read_json(path), Process()
    if config.get("trained_betas") is not None:
        raise ValueError(f"checkpoint {root.name}: scheduler_config.json has trained_betas; a beta_schedule by name is wanted")
    prediction = config.get("prediction_type", default.prediction)
    if str(config.get("_class_name", "")).startswith("EDM"):  # what these call epsilon is Karras et al.'s F
        levels = (config.get("sigma_min", 0.002), config.get("sigma_max", 80.0))
        data = config.get("sigma_data", 0.5)
        return Process("edm" if prediction == "epsilon" else prediction, levels=levels, sigma_data=data)
    return Process(
        prediction,
        config.get("beta_schedule", default.beta_schedule),
        config.get("beta_start", default.beta_start),
        config.get("beta_end", default.beta_end),
        config.get("num_train_timesteps", default.steps),
        config.get("rescale_betas_zero_snr", default.zero_terminal_snr),
    )


def _spreads(folder: Path) -> bool:
    files = weights_in(folder)
    structure = read_diffusers({name: shape for file in files for name, shape in file.shapes.items()})
    return spreads(structure, {name: file for file in files for name in file.shapes})
