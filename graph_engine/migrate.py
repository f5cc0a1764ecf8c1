"""Raises nodes that were saved under an older version to the inputs of the version that is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from graph_engine.entry import NodeEntry
from graph_engine.registry import Registry
from graph_engine.spec import NodeSpec, Problem
from graph_engine.suggest import show
from graph_engine.workflow import Workflow

__all__ = ["is_old", "migrate"]


def is_old(entry: NodeEntry, spec: NodeSpec) -> bool:
    """Whether the node must be raised by its class before its inputs mean anything."""
    return spec.migrates and entry.version is not None and entry.version < spec.version


def migrate(workflow: Workflow, registry: Registry) -> tuple[Workflow, list[Problem]]:
    """The document with every old node raised to the installed version, and what could not be raised (left as it
    was).
    """
    specs: Mapping[str, NodeSpec] = registry.specs
    raised: dict[str, NodeEntry] = {}
    problems: list[Problem] = []
    for id, entry in workflow.nodes.items():
        spec = specs.get(entry.class_type)
        if spec is None or not is_old(entry, spec) or entry.version is None:
            continue
        try:
            inputs = registry[entry.class_type].migrate(entry.version, dict(entry.inputs))
            if not isinstance(inputs, dict) or not all(isinstance(name, str) for name in inputs):
                raise TypeError(f"migrate gave {show(inputs)}, not a dict of inputs")
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            problems.append(
                Problem(
                    code="bad_version",
                    message=f"version {entry.version} could not be raised to {spec.version}: {why}",
                    node=id,
                    title=entry.title or spec.title,
                    class_type=entry.class_type,
                    field="_meta.version",
                    got=entry.version,
                    wanted=spec.version,
                    hint="add the node anew",
                )
            )
        else:
            raised[id] = dataclasses.replace(entry, inputs=inputs, version=spec.version)
    return (dataclasses.replace(workflow, nodes={**workflow.nodes, **raised}) if raised else workflow), problems
