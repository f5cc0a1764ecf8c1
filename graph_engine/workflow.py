"""The workflow document: what runs, as read from and written to JSON in the API format `{id: {class_type, inputs,
_meta}}`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph_engine.document import read_document, read_json
from graph_engine.editor.convert import is_editor_graph, node_types, to_api
from graph_engine.editor.definitions import definitions
from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.errors import WorkflowError
from graph_engine.files import Folders
from graph_engine.picture import NoPicture, read_texts
from graph_engine.spec import NodeSpec, Problem
from graph_engine.suggest import did_you_mean

__all__ = ["Constant", "Link", "NodeEntry", "Workflow"]


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph of typed nodes as data; changes give a new document.

    `faults` holds what was wrong with the JSON itself; validation lists them with everything else.
    """

    nodes: dict[str, NodeEntry] = field(default_factory=dict)
    faults: tuple[Problem, ...] = ()

    @classmethod
    def from_json(cls, document: object, specs: Mapping[str, NodeSpec] | None = None, folders: Folders | None = None) -> Workflow:
        """Read the API format from text, bytes or parsed JSON, and with `specs` also the editor's own format.

        `folders` give the choices of file inputs, the first of which stands for one that a saved graph left open. Raises
        WorkflowError when it is not JSON, not an object, in the editor's format without `specs`, or a graph in that format
        which cannot be converted; lesser mistakes go to `faults`.
        """
        document, faults = read_json(document)
        if specs is not None and is_editor_graph(document):
            asked = {type: spec for type, spec in specs.items() if type in node_types(document)}
            document = to_api(document, definitions(asked, folders or Folders(".")), exact=False)
        nodes, more = read_document(document)
        return cls(nodes, (*faults, *more))

    def to_json(self) -> dict[str, Any]:
        """The document as JSON objects; lists that are values are written `{"__value__": [...]}`."""
        return {id: entry.to_json() for id, entry in self.nodes.items()}

    @classmethod
    def load(cls, path: str | Path, specs: Mapping[str, NodeSpec] | None = None, folders: Folders | None = None) -> Workflow:
        """Read a JSON file, or a picture that carries the workflow it was made by; see `from_json` for `specs` and
        `folders`.

        Raises WorkflowError when there is no such file, no workflow in it, or one that cannot be read.
        """
        path = Path(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _error("no_file", f"cannot read {path}: {error.strerror or error}") from error
        try:
            texts = read_texts(data)
        except NoPicture:
            return cls._of_file(path, data, specs, folders)
        except ValueError as error:
            raise _error("no_workflow", f"{path}: {error}") from error
        if "prompt" in texts:
            return cls._of_file(path, texts["prompt"], specs, folders)
        if "workflow" in texts:
            return cls._of_file(path, texts["workflow"], specs, folders)
        raise _error(
            "no_workflow",
            f"{path} carries no workflow",
            hint="a picture saved by SaveImage has one in its text chunk `prompt`",
        )

    @classmethod
    def _of_file(cls, path: Path, document: object, specs: Mapping[str, NodeSpec] | None, folders: Folders | None) -> Workflow:
        try:
            return cls.from_json(document, specs, folders)
        except WorkflowError as error:
            raise WorkflowError([each.model_copy(update={"message": f"{path}: {each.message}"}) for each in error.problems]) from error

    def save(self, path: str | Path) -> None:
        """Write the document as a JSON file, whole or not at all."""
        path = Path(path)
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        # a lone surrogate has no UTF-8 form, but its Python escape is also its JSON escape
        beside.write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")
        os.replace(beside, path)

    def links(self) -> Iterator[tuple[str, str, Link]]:
        """Every link as (node, input, where it comes from)."""
        for id, entry in self.nodes.items():
            for name, value in entry.inputs.items():
                if isinstance(value, Link):
                    yield id, name, value

    def find(self, name: str) -> str:
        """The id of the node with this id, title, or type, whichever is found first and only once.

        Raises WorkflowError, naming the nearest, when there is none, and all candidates when there are several.
        """
        if name in self.nodes:
            return name
        exact = [id for id, entry in self.nodes.items() if entry.title == name]
        folded = name.casefold()
        for found in (
            exact,
            [id for id, entry in self.nodes.items() if (entry.title or "").casefold() == folded],
            [id for id, entry in self.nodes.items() if entry.class_type.casefold() == folded],
        ):
            if len(found) == 1:
                return found[0]
            if found:
                ids = ", ".join(found[:10])
                raise _error(
                    "ambiguous_node",
                    f"several nodes are called {name!r}",
                    got=name,
                    wanted=found,
                    hint=f"use an id: {ids}",
                )
        known = [*self.nodes, *(entry.title for entry in self.nodes.values() if entry.title)]
        known += [entry.class_type for entry in self.nodes.values()]
        raise _error(
            "no_such_node",
            f"there is no node {name!r}",
            got=name,
            hint=did_you_mean(name, known) or f"nodes: {self._names()}",
        )

    def locate(self, address: str, specs: Mapping[str, NodeSpec] | None = None) -> tuple[str, str]:
        """The (node id, input name) that `node.input` means, with the node given by id, title or type; both may hold
        dots.

        With `specs` an input must be declared. Raises WorkflowError with the nearest name.
        """
        first: WorkflowError | None = None
        fallback: tuple[str, str] | None = None
        dots = [i for i, letter in enumerate(address) if letter == "."]
        for dot in dots:
            try:
                id = self.find(address[:dot])
            except WorkflowError as error:
                # an ambiguous name says more than an unknown one, else the shortest reading is reported
                if first is None or error.problems[0].code == "ambiguous_node":
                    first = error
                continue
            name, entry = address[dot + 1 :], self.nodes[id]
            spec = None if specs is None else specs.get(entry.class_type)
            known = entry.inputs.keys() if spec is None else spec.by_name.keys()
            if name in known:
                return id, name
            if spec is None and name:
                fallback = fallback or (id, name)
            else:
                hint = did_you_mean(name, known) or f"inputs: {', '.join(known)}"
                message = f"{entry.class_type} has no input {name!r}"
                first = _error("unknown_input", message, node=id, title=entry.label, field=name, hint=hint)
        if fallback is not None:
            return fallback
        raise first or _error("bad_address", f"{address!r} is not `node.input`", hint=f"nodes: {self._names()}")

    def set(self, address: str, value: Any, specs: Mapping[str, NodeSpec] | None = None) -> Workflow:
        """A copy with the input at `node.input` (see `locate`) replaced by a literal, a Link or a Constant."""
        return self.replace(*self.locate(address, specs), value)

    def replace(self, id: str, name: str, value: Any) -> Workflow:
        """A copy with one input of the node `id` replaced."""
        entry = self.nodes[id]
        changed = dataclasses.replace(entry, inputs={**entry.inputs, name: value})
        return dataclasses.replace(self, nodes={**self.nodes, id: changed})

    def _names(self) -> str:
        names = [f"{id} ({entry.label})" for id, entry in list(self.nodes.items())[:12]]
        return ", ".join(names) + (", ..." if len(self.nodes) > len(names) else "") if names else "none"


def _error(code: str, message: str, **more: Any) -> WorkflowError:
    return WorkflowError([Problem(code=code, message=message, **more)])
