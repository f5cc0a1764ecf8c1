"""Convert a pickled checkpoint to safetensors: python -m diffusion.convert model.ckpt [model.safetensors]."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusion.files import load_pickle


def convert(source: Path, target: Path | None = None) -> Path:
    """Write the tensors of a pickled file beside it as safetensors; no code in the file runs. FileExistsError rather than overwrite."""
    target = source.with_suffix(".safetensors") if target is None else target
    if target.exists():
        raise FileExistsError(f"{target} exists")
    tensors = load_pickle(source)
    save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, target)
    return target


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        sys.stdout.write(f"{convert(*map(Path, sys.argv[1:]))}\n")
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
