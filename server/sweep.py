"""`--set` and `--sweep`: what is changed in a workflow before it runs, once for each combination of swept values."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator, Mapping

from graph_engine import NodeSpec, Problem, Workflow, WorkflowError
from graph_engine.setting import apply_setting, read_setting, value_of

__all__ = ["variants"]


def variants(
    workflow: Workflow, settings: Iterable[str], sweeps: Iterable[str], specs: Mapping[str, NodeSpec]
) -> Iterator[tuple[str, Workflow]]:
    """The workflow with the settings (`node.input=value`) made, once for each combination of the sweeps (`node.input=a,b,c`).

    Each comes with a label that says what was swept, empty without sweeps. A value with a comma is written in double quotes. Raises
    WorkflowError for an address that leads nowhere and for a sweep without values.
    """
    for setting in settings:
        workflow = apply_setting(workflow, setting, specs)
    axes = [_axis(workflow, sweep, specs) for sweep in sweeps]
    for chosen in itertools.product(*axes):
        changed = workflow
        for node, name, text in chosen:
            changed = changed.replace(node, name, value_of(changed, node, name, text, specs))
        yield " ".join(f"{workflow.nodes[node].label}.{name}={text}" for node, name, text in chosen), changed


def _axis(workflow: Workflow, sweep: str, specs: Mapping[str, NodeSpec]) -> list[tuple[str, str, str]]:
    node, name, text = read_setting(workflow, sweep, specs)
    values = next(csv.reader([text], skipinitialspace=True), [])
    if not values:
        message = f"--sweep {sweep} gives no values"
        raise WorkflowError([Problem(code="bad_address", message=message, got=sweep, hint=f"write {sweep}a,b,c")])
    return [(node, name, value) for value in values]
