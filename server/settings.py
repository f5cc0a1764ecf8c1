"""Where files live and which defaults hold, from the environment (`LATENTGRAPH_HOME`, `LATENTGRAPH_DEVICE`, …)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings"]


class Settings(BaseSettings):
    """Settings of one process; command-line options override them."""

    model_config = SettingsConfigDict(env_prefix="LATENTGRAPH_")

    home: Path = Field(default_factory=Path.cwd, description="holds models/, input/, output/, temp/")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    cache_dir: Path | None = Field(None, description="keeps results between processes; none: memory only")
