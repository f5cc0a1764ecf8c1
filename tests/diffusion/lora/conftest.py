"""The tool that writes LoRAs in many layouts, and LoRAs for the small random checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def make_lora() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_lora", Path(__file__).parents[2] / "tools" / "make_lora.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shapes(make_lora, folder):
    return make_lora.shapes_in(folder)


@pytest.fixture(scope="session")
def factors(make_lora, shapes):
    return make_lora.make(shapes)
