"""One training run's book-keeping: the log, the clock that the schedule follows, checkpoints to go on from."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass
class Run:
    """A run in `folder/name.pt` and `.log`; it ends after `minutes` of training or, where given, after `steps` steps."""

    folder: Path
    name: str
    minutes: float
    steps: int | None = None
    step: int = 0
    seconds: float = 0.0  # spent by earlier stretches of this run
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """How far the run is, 0..1: by steps where their number is fixed (which repeats exactly), else by the clock."""
        done = self.step / self.steps if self.steps else self.elapsed / (60 * self.minutes)
        return min(done, 1.0)

    def log(self, text: str) -> None:
        line = f"{self.name} step {self.step} {self.elapsed / 60:.1f} min: {text}"
        print(line, flush=True)
        with (self.folder / f"{self.name}.log").open("a") as f:
            f.write(line + "\n")

    def resume(self) -> dict | None:
        """The last checkpoint's state, with this run's step and clock set to it, or None."""
        path = self.folder / f"{self.name}.pt"
        if not path.exists():
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        self.started = time.monotonic()
        self.log("resumed")
        return state

    def save(self, state: dict) -> None:
        """Write a checkpoint in one move, so that a crash leaves the old one whole."""
        path = self.folder / f"{self.name}.pt"
        torch.save(state | {"step": self.step, "seconds": self.elapsed}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
        self.saved = time.monotonic()

    @property
    def save_due(self) -> bool:
        return time.monotonic() - self.saved > 120
