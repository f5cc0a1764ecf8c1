"""Every problem of a workflow at once, before anything runs. Never raises, never recurses, never stops at the first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from graph_engine.check import NodeCheck
from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.errors import WorkflowError
from graph_engine.files import Folders
from graph_engine.hints import Hints
from graph_engine.migrate import is_old, migrate
from graph_engine.order import dependencies, needed, topological
from graph_engine.registry import Registry
from graph_engine.spec import NodeSpec, Problem
from graph_engine.suggest import nearest, show
from graph_engine.workflow import Workflow

__all__ = ["canonical", "needs_classes", "notes", "objections", "validate", "wanted_nodes"]


def validate(
    workflow: Workflow | object,
    specs: Mapping[str, NodeSpec],
    folders: Folders | None = None,
    *,
    wanted: Collection[str] | None = None,
    registry: Registry | None = None,
) -> list[Problem]:
    """Everything that is wrong with a document, given as a Workflow or as JSON; empty when it can run.

    With `wanted` only what those nodes need is looked at (of the rest only the types), else every node. File names are
    checked against `folders`; `registry` gives the classes whose own `check` and `migrate` have a say.
    """
    if not isinstance(workflow, Workflow):
        try:
            workflow = Workflow.from_json(workflow)
        except WorkflowError as error:
            return list(error.problems)
    problems = list(workflow.faults)
    if registry is not None:
        workflow, stuck = migrate(workflow, registry)
        problems += stuck
    nodes, hints = workflow.nodes, Hints(workflow, specs)
    if not nodes and not problems:
        return [Problem(code="no_outputs", message="the workflow is empty", hint="nothing to run")]
    problems += _unknown_types(workflow, specs, hints)
    sources = dependencies(workflow)
    if wanted is None:
        if not wanted_nodes(workflow, specs) and not any(_might_be_output(entry, specs, hints) for entry in nodes.values()):
            effects = [type for type, spec in specs.items() if spec.output and not spec.deprecated]
            listed = hints.listed(effects, "nodes with effects")
            problems.append(Problem(code="no_outputs", message="nothing to run: no node has effects", hint=listed))
    else:
        problems += _unknown_wanted(wanted, workflow)
        sources = {id: sources[id] for id in _in_order(needed(sources, wanted), nodes)}
    order, cycles = topological(sources)
    problems += [_cycle(cycle, workflow, specs) for cycle in cycles]
    check = NodeCheck(workflow, specs, folders, registry, hints, order)
    found: dict[str, list[Problem]] = {id: check(id) for id in order}
    found |= {id: check(id) for id in sources if id not in found}  # in or behind a cycle
    for id in sources:
        problems += found[id]
    return problems


def objections(
    workflow: Workflow,
    specs: Mapping[str, NodeSpec],
    folders: Folders | None = None,
    *,
    wanted: Collection[str] | None = None,
    registry: Registry | None = None,
) -> list[Problem]:
    """What stops a run: nothing while all that the wanted nodes need is sound (a branch still being drawn does not count), else
    everything that is wrong with the document.
    """
    chosen = wanted_nodes(workflow, specs) if wanted is None else wanted
    if chosen and not validate(workflow, specs, folders, wanted=chosen, registry=registry):
        return []
    return validate(workflow, specs, folders, wanted=wanted, registry=registry)


def wanted_nodes(workflow: Workflow, specs: Mapping[str, NodeSpec]) -> list[str]:
    """The nodes that are wanted when nobody says which: those with effects."""
    return [id for id, entry in workflow.nodes.items() if (spec := specs.get(entry.class_type)) is not None and spec.output]


def needs_classes(workflow: Workflow, specs: Mapping[str, NodeSpec]) -> bool:
    """Whether declarations alone cannot judge the document, because a node has its own `check` or must be migrated."""
    known = [(entry, specs[entry.class_type]) for entry in workflow.nodes.values() if entry.class_type in specs]
    return any(spec.checks or is_old(entry, spec) for entry, spec in known)


def notes(workflow: Workflow, specs: Mapping[str, NodeSpec]) -> list[Problem]:
    """What does not stop a run but is worth knowing: literals that no input takes, deprecated nodes."""
    found = []
    for id, entry in workflow.nodes.items():
        if (spec := specs.get(entry.class_type)) is None or is_old(entry, spec):
            continue
        where = {"node": id, "title": entry.title or spec.title, "class_type": entry.class_type}
        if spec.deprecated:
            found.append(Problem(code="deprecated", message=f"{entry.class_type} is deprecated", **where))
        for name, value in entry.inputs.items():
            if name not in spec.by_name and not isinstance(value, Link):
                message = f"{entry.class_type} has no input {name!r}; {show(value)} is ignored"
                found.append(Problem(code="unknown_input", message=message, field=name, got=value, **where))
    return found


def canonical(entry: NodeEntry, spec: NodeSpec) -> dict[str, Any]:
    """The inputs of a valid node in declared order: literals in canonical form, omitted ones as their defaults, links
    and constants as they are.
    """
    given = entry.inputs
    made: dict[str, Any] = {}
    for name, declared in spec.by_name.items():
        if name in given:
            value = given[name]
            made[name] = value if isinstance(value, (Link, Constant)) else declared.canonical(value)
        elif not declared.required:
            made[name] = declared.default
    return made


def _in_order(ids: set[str], nodes: Mapping[str, NodeEntry]) -> list[str]:
    return [id for id in nodes if id in ids]


def _unknown_types(workflow: Workflow, specs: Mapping[str, NodeSpec], hints: Hints) -> list[Problem]:
    told = {problem.node for problem in workflow.faults if problem.code in ("unknown_node", "not_a_node")}
    problems = []
    for id, entry in workflow.nodes.items():
        if entry.class_type in specs or id in told:
            continue
        message = f"no node type {show(entry.class_type)} is installed" if entry.class_type else "the node has no class_type"
        hint = hints.name(entry.class_type, specs.keys(), "node types")
        title = entry.title or entry.class_type or None
        where: dict[str, Any] = {
            "node": id,
            "title": title,
            "class_type": entry.class_type or None,
            "field": "class_type",
        }
        problems.append(Problem(code="unknown_node", message=message, got=entry.class_type or None, hint=hint, **where))
    return problems


def _might_be_output(entry: NodeEntry, specs: Mapping[str, NodeSpec], hints: Hints) -> bool:
    """Whether the node is of an unknown type that most likely means one with effects."""
    if entry.class_type in specs:
        return False
    meant = hints.nearest(entry.class_type, specs.keys(), "node types")
    return meant is not None and specs[meant].output


def _unknown_wanted(wanted: Collection[str], workflow: Workflow) -> list[Problem]:
    if not wanted:
        return [Problem(code="no_outputs", message="nothing to run: no node is wanted")]
    problems = []
    for id in wanted:
        if id not in workflow.nodes:
            near = nearest(id, workflow.nodes)
            hint = None if near is None else f"did you mean {near!r}?"
            problems.append(Problem(code="no_such_node", message=f"the wanted node {id!r} does not exist", got=id, hint=hint))
    return problems


def _cycle(cycle: list[str], workflow: Workflow, specs: Mapping[str, NodeSpec]) -> Problem:
    entry = workflow.nodes[cycle[0]]
    spec = specs.get(entry.class_type)
    shown = cycle if len(cycle) <= 12 else [*cycle[:6], "...", *cycle[-5:]]
    path = " -> ".join(id if id not in workflow.nodes else f"{id} ({workflow.nodes[id].label})" for id in shown)
    return Problem(
        code="cycle",
        message=f"the links go round in a circle: {path}",
        node=cycle[0],
        title=entry.title or (spec.title if spec else entry.class_type),
        class_type=entry.class_type,
        got=cycle,
        wanted="links that lead from sources to results",
        hint="remove one of these links",
    )
