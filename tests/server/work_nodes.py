"""Nodes for worker processes under test: quick ones, slow ones, and ones that end badly."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context


class Word(Node, category="test"):
    text: str = "word"

    def run(self, ctx: Context) -> str:
        return self.text


class Join(Node, category="test"):
    a: str
    b: str = "."

    def run(self, ctx: Context) -> str:
        return self.a + self.b


class Write(Node, category="test", output=True):
    """Writes a file in many small pieces, so that a kill has something to hit."""

    text: str
    prefix: str = "out"
    pieces: int = 1
    seconds: float = 0.0

    def run(self, ctx: Context) -> None:
        def write(file: Any) -> None:
            for _ in range(self.pieces):
                file.write(f"{self.text}\n".encode())
                file.flush()
                time.sleep(self.seconds / self.pieces)
            file.write(b"end\n")

        ctx.save(self.prefix, ".txt", write, media="text/plain")
        ctx.show(text=self.text)


class Wait(Node, category="test", output=True, cache=False):
    """Takes its time, and looks up after each step."""

    seconds: float = 0.1
    steps: int = 10
    previews: bool = False

    def run(self, ctx: Context) -> None:
        for step in range(self.steps):
            time.sleep(self.seconds / self.steps)
            ctx.step(step + 1, self.steps, (lambda: b"\xff\xd8picture") if self.previews else None)


class Stubborn(Node, category="test", output=True, cache=False):
    """Never looks up."""

    seconds: float = 60.0

    def run(self, ctx: Context) -> None:
        time.sleep(self.seconds)


class Die(Node, category="test", output=True, cache=False):
    how: Literal["kill", "exit", "crash", "raise", "memory"] = "kill"

    def run(self, ctx: Context) -> None:
        sys.stderr.write("last words\n")
        match self.how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "crash":
                faulthandler._sigsegv()
            case "raise":
                raise ValueError("not today")
            case "memory":
                raise MemoryError("no room")
        time.sleep(5)


class Even(Node, category="test", output=True):
    """Only the class knows what it objects to."""

    n: int = 0

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if isinstance(inputs["n"], int) and inputs["n"] % 2:
            yield "n", "must be even"

    def run(self, ctx: Context) -> None:
        ctx.show(n=self.n)
