"""Convert a pickled file (checkpoint, VAE, LoRA, ControlNet, learned word, hypernetwork, …) to safetensors.

python -m diffusion.convert model.ckpt [model.safetensors]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion.embedding import vectors
from diffusion.files import load_weights, named_tensors
from diffusion.hypernetwork import flattened


def convert(source: Path, target: Path | None = None) -> Path:
    """Write the tensors of a pickled file beside it as safetensors; no code in the file runs. FileExistsError rather than overwrite."""
    target = source.with_suffix(".safetensors") if target is None else target
    if target.exists():
        raise FileExistsError(f"{target} exists")
    content = load_weights(source)
    networks, settings = flattened(content)
    tensors = networks or learned_word(content) or named_tensors(source, content)
    save_file({name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, target, settings or None)
    return target


def learned_word(content: Any) -> dict[str, Tensor]:
    """The vectors of a learned word under the names that safetensors files use; empty where the file holds something else.

    Its older files nest the tensor or are nothing but it; all others name their tensors.
    """
    named = isinstance(content, Mapping) and "string_to_param" not in content
    return {} if named else {f"clip_{name}" if name else "emb_params": tensor for name, tensor in vectors(content).items()}


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        sys.stdout.write(f"{convert(*map(Path, sys.argv[1:]))}\n")
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
