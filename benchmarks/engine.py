"""What the engine itself costs: chains and combs of cheap nodes, cold, fully cached, and with one leaf changed, and how that grows.

A chain is one node behind the other; a comb is a chain with a leaf on every node. Times are those of `Engine.run` in this process,
validation and the thread of the run included, the best of a few runs; the exponent is the slope of log time over log size, from 100
nodes up.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graph_engine.device import HostDevice
from graph_engine.engine import Engine
from graph_engine.node import Node
from graph_engine.registry import Registry
from graph_engine.workflow import Workflow

if TYPE_CHECKING:
    from graph_engine.context import Context

clock = time.perf_counter
SIZES = (10, 100, 500, 1000, 5000, 10_000)
# ComfyUI 0.8, chains of cheap nodes on 2 cores, as published: milliseconds cold and when submitted again unchanged
COMFYUI = {10: ("5", ""), 100: ("113", ""), 500: ("3800", "4800"), 1000: ("fails (recursion)", "")}


class Start(Node, category="benchmark"):
    value: int = 0

    def run(self, ctx: Context) -> int:
        return self.value


class Add(Node, category="benchmark"):
    a: int
    b: int = 1

    def run(self, ctx: Context) -> int:
        return self.a + self.b


class End(Node, category="benchmark", output=True):
    what: int

    def run(self, ctx: Context) -> None:
        return None


def chain(size: int) -> tuple[Workflow, str]:
    """A chain of `size` nodes, and the input of its last one."""
    nodes: dict[str, Any] = {"0": {"class_type": "Start", "inputs": {"value": 1}}}
    for i in range(1, size - 1):
        nodes[str(i)] = {"class_type": "Add", "inputs": {"a": [str(i - 1), 0], "b": i}}
    nodes["end"] = {"class_type": "End", "inputs": {"what": [str(size - 2), 0]}}
    return Workflow.from_json(nodes), f"{size - 2}.b"


def comb(size: int) -> tuple[Workflow, str]:
    """A chain of `size` / 2 nodes with a leaf on each, and the input of the middle leaf."""
    nodes: dict[str, Any] = {}
    for i in range(size // 2):
        nodes[f"s{i}"] = {"class_type": "Add", "inputs": {"a": [f"s{i - 1}", 0] if i else 1, "b": i}}
        nodes[f"t{i}"] = {"class_type": "Add", "inputs": {"a": [f"s{i}", 0], "b": -i}}
    return Workflow.from_json(nodes), f"t{size // 4}.b"


def measure(workflow: Workflow, leaf: str, wanted: list[str] | None, repeats: int) -> tuple[float, float, float]:
    """Seconds cold, cached, and with the leaf changed."""
    registry = Registry.of(Start, Add, End)
    cold, cached, changed = [], [], []
    for _ in range(repeats):
        with Engine(registry, device=HostDevice()) as engine:
            engine.device  # noqa: B018 - opened before the clock starts
            cold.append(timed(lambda: engine.run(workflow, wanted=wanted)))
            cached.append(timed(lambda: engine.run(workflow, wanted=wanted)))
            other = workflow.set(leaf, -7)
            changed.append(timed(lambda: engine.run(other, wanted=wanted)))  # noqa: B023 - called at once
    return min(cold), min(cached), min(changed)


def timed(work: Callable[[], Any]) -> float:
    gc.collect()
    began = clock()
    result = work()
    spent = clock() - began
    result.raise_for_error()
    return spent


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of a straight line through log time over log size."""
    points = [(math.log(n), math.log(s)) for n, s in zip(sizes, seconds, strict=True) if n >= 100]
    if len(points) < 2:
        return math.nan
    x_mean, y_mean = (sum(column) / len(points) for column in zip(*points, strict=True))
    slope: float = sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)
    return slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of nodes")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts")
    parser.add_argument("--cpu", action="store_true", help="CPU time instead of wall time, for a machine that has other work to do")
    options = parser.parse_args()
    if options.cpu:
        global clock
        clock = time.process_time
    sizes = sorted(options.sizes)
    measure(*chain(10), None, 1)  # imports and first-time work
    for name, make in (("chain", chain), ("comb", comb)):
        head = f"{'ComfyUI cold ms':>20}{'again ms':>20}" if make is chain else ""
        print(f"{name:>6} {'cold ms':>10} {'cached ms':>10} {'changed ms':>11} {'cold µs/node':>13}{head}")
        columns: list[tuple[float, float, float]] = []
        for size in sizes:
            workflow, leaf = make(size)
            wanted = None if make is chain else [id for id in workflow.nodes if id.startswith("t")]
            columns.append(measure(workflow, leaf, wanted, options.repeats))
            cold, cached, changed = (1000 * seconds for seconds in columns[-1])
            beside = "".join(f"{text:>20}" for text in COMFYUI.get(size, ("", ""))) if make is chain else ""
            print(f"{size:>6} {cold:>10.1f} {cached:>10.1f} {changed:>11.1f} {1000 * cold / size:>13.1f}{beside}".rstrip())
        fitted = [exponent(sizes, list(column)) for column in zip(*columns, strict=True)]
        print(f"growth {fitted[0]:>10.2f} {fitted[1]:>10.2f} {fitted[2]:>11.2f}   (exponent; 1 is linear)\n")


if __name__ == "__main__":
    main()
