"""Small random checkpoints of every family, each made once."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import save_file

TOOL = Path(__file__).parents[2] / "tools" / "make_checkpoint.py"


@pytest.fixture(scope="session")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def file_of(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("families"), {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = folder / f"{kind}.safetensors"
            save_file(tool.make(kind), made[kind])
        return made[kind]

    return get
