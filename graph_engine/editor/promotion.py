"""Promoted widgets: inputs of a subgraph that show, on the node which stands for it, a widget of a node within."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from graph_engine.editor.fields import Field, first_choice
from graph_engine.editor.graph import Graph, Node, Subgraph
from graph_engine.editor.ids import proxies
from graph_engine.editor.literal import absent
from graph_engine.editor.saved import INSIDE_IN, Cable, fault

__all__ = ["promote"]


def promote(root: Graph, subgraphs: Mapping[str, Subgraph]) -> None:
    """Settle which inputs of subgraphs are widgets, their values within, and what each node that stands for one sets.

    Raises WorkflowError when a subgraph contains itself.
    """
    for subgraph in _innermost_first(subgraphs):
        _settle_nodes(subgraph, subgraphs)
        for at in range(len(subgraph.inputs)):
            _settle_input(subgraph, at, subgraphs)
    _settle_nodes(root, subgraphs)


def value(instance: Node, at: int, subgraph: Subgraph) -> Any:
    """What an input that is a widget holds on a node that stands for `subgraph`."""
    return instance.promoted.get(at, subgraph.defaults.get(at))


def _innermost_first(subgraphs: Mapping[str, Subgraph]) -> Iterator[Subgraph]:
    done: set[str] = set()
    for start in subgraphs:
        path: list[tuple[str, Iterator[str]]] = [(start, iter(_within(subgraphs[start], subgraphs)))]
        open_: set[str] = {start}
        while path and start not in done:
            id, inner = path[-1]
            below = next((each for each in inner if each not in done), None)
            if below is None:
                done.add(id)
                open_.discard(id)
                path.pop()
                yield subgraphs[id]
            elif below in open_:
                name = subgraphs[below].name or below
                raise fault("subgraphs may not contain themselves", f"the subgraph {name!r} contains itself")
            else:
                open_.add(below)
                path.append((below, iter(_within(subgraphs[below], subgraphs))))


def _within(graph: Graph, subgraphs: Mapping[str, Subgraph]) -> Iterable[str]:
    return dict.fromkeys(node.type for node in graph.nodes.values() if node.type in subgraphs)


def _settle_input(subgraph: Subgraph, at: int, subgraphs: Mapping[str, Subgraph]) -> None:
    """The last widget that an input feeds is the one it shows."""
    for id, position in subgraph.entries[at]:
        node = subgraph.nodes[id]
        inner = subgraphs.get(node.type)
        if inner is not None:
            if position in inner.widgets:
                subgraph.widgets[at] = inner.widgets[position]
                subgraph.defaults[at] = value(node, position, inner)
        elif (entry := node.inputs[position]).widget:
            subgraph.widgets[at] = entry
            subgraph.defaults[at] = node.values.get(entry.name)


def _settle_nodes(graph: Graph, subgraphs: Mapping[str, Subgraph]) -> None:
    standing = [(node, subgraphs[node.type]) for node in graph.nodes.values() if node.type in subgraphs]
    for node, subgraph in standing:  # the list belongs to the widgets that the subgraph itself declares
        shown = [at for at in range(len(subgraph.inputs)) if at in subgraph.widgets and not subgraph.inputs[at].options]
        for at, saved in zip(shown, node.saved or [], strict=False):
            node.promoted[at] = _fitted(subgraph.widgets[at], saved)
    for node, subgraph in standing:
        for n, (id, name, *_) in enumerate(proxies(node.properties)):
            found = _proxied(subgraph, id, name, subgraphs)
            if found is not None and n < len(node.saved or []):
                node.promoted[found] = _fitted(subgraph.widgets[found], (node.saved or [])[n])


def _proxied(subgraph: Subgraph, id: str, name: str, subgraphs: Mapping[str, Subgraph]) -> int | None:
    """The input that shows a widget listed the old way, made when there is none; None when there is no such widget."""
    if id == "-1":
        return next((at for at in subgraph.widgets if subgraph.inputs[at].name == name), None)
    node = subgraph.nodes.get(id)
    position = None if node is None else node.position(name)
    if node is None or position is None:
        return None
    inner = subgraphs.get(node.type)
    if not (node.inputs[position].widget if inner is None else position in inner.widgets):
        return None
    for at, ends in enumerate(subgraph.entries):
        if (id, position) in ends:
            return at
    at = len(subgraph.inputs)
    subgraph.inputs.append(replace(node.inputs[position], widget=False, options=_MADE))
    subgraph.entries.append([(id, position)])
    node.feeds[position] = Cable("", INSIDE_IN, at, id, position)
    _settle_input(subgraph, at, subgraphs)
    return at


_MADE: Mapping[str, Any] = {"made": True}  # marks an input that the subgraph does not declare itself


def _fitted(entry: Field, saved: Any) -> Any:
    return first_choice(entry.options) if entry.type == "COMBO" and absent(saved) else saved
