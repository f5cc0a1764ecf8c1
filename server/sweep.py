"""`--set` and `--sweep`: what is changed in a workflow before it runs, once for each combination of swept values."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graph_engine import Workflow
from graph_engine.spec import InputSpec, NodeSpec

__all__ = ["Combination", "apply", "combinations", "read_value"]


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a sweep: (address, text) pairs in the order they were given, the fixed ones first."""

    changes: tuple[tuple[str, str], ...]
    swept: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return " ".join(f"{address}={value}" for address, value in self.swept)


def combinations(fixed: Iterable[str], swept: Iterable[str]) -> Iterator[Combination]:
    """Every combination of the swept values (`node.input=a,b,c`), each with the fixed changes (`node.input=value`).

    Raises ValueError for text without `=` or a sweep without values. A value with a comma is written in double quotes.
    """
    changes = tuple(_split(text) for text in fixed)
    axes = [[(address, value) for value in _values(address, values)] for address, values in map(_split, swept)]
    for chosen in itertools.product(*axes):
        yield Combination((*changes, *chosen), chosen)


def apply(workflow: Workflow, combination: Combination, specs: Mapping[str, NodeSpec]) -> Workflow:
    """The workflow with a combination's changes made; raises WorkflowError for an address that leads nowhere."""
    for address, text in combination.changes:
        node, name = workflow.locate(address, specs)
        spec = specs.get(workflow.nodes[node].class_type)
        workflow = workflow.set(address, read_value(text, spec.input(name) if spec else None), specs)
    return workflow


def read_value(text: str, spec: InputSpec | None) -> Any:
    """A value from the command line: plain text where the input takes text, else JSON when it is JSON."""
    if spec is not None and spec.is_widget and (spec.types[0] == "STRING" or spec.folder is not None):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    choices = () if spec is None else spec.choices or ()
    return text if text in choices else value


def _split(text: str) -> tuple[str, str]:
    address, equals, value = text.partition("=")
    if not equals or not address.strip():
        raise ValueError(f"{text!r} is not node.input=value")
    return address.strip(), value


def _values(address: str, text: str) -> list[str]:
    values = next(csv.reader([text], skipinitialspace=True), [])
    if not values:
        raise ValueError(f"--sweep {address}: no values given; write {address}=a,b,c")
    return values
