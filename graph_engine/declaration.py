"""Reads the inputs and outputs of a node class: fields, bounds, choices and files, and the return annotation of
`run`.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import typing
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from graph_engine.errors import DeclarationError
from graph_engine.sockets import LazyInput, Socket, about, marks, read_annotation
from graph_engine.spec import InputSpec, OutputSpec
from graph_engine.suggest import show

__all__ = ["File", "read_inputs", "read_outputs"]


@dataclass(frozen=True, slots=True)
class File:
    """Marks a text field as the name of a file in a folder of one kind; its choices are the files, its identity their
    content.

    `embedded` maps names that ship with a package to "package:relative/path"; `upload` tells the editor to offer an
    upload button.
    """

    folder: str
    embedded: tuple[tuple[str, str], ...] = ()
    upload: bool = False


def read_inputs(cls: type[BaseModel]) -> tuple[InputSpec, ...]:
    """The inputs that the fields of a node class declare. Raises DeclarationError, naming class and field."""
    return tuple(_input(f"{cls.__name__}.{name}", name, info) for name, info in cls.__pydantic_fields__.items())


def _input(where: str, name: str, info: FieldInfo) -> InputSpec:
    socket = read_annotation(info.annotation, where)
    found = [*info.metadata, *marks(info.annotation)]  # the field's own first: what is said nearest to the field counts
    fields = [info, *(mark for mark in found if isinstance(mark, FieldInfo))]
    file = next((mark for mark in found if isinstance(mark, File)), None)
    if file is not None and socket.names != ("STRING",):
        raise DeclarationError(f"{where}: a file is named by a text, not by {socket}")
    widget: dict[str, Any] = {"upload": True} if file and file.upload else {}
    for field in reversed(fields):
        widget |= field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    bounds = _bounds(found, socket, where)
    required = info.is_required()
    spec = InputSpec(
        name=name,
        types=("COMBO",) if file else socket.names,
        list=socket.list,
        optional=socket.optional,
        required=required,
        lazy=any(isinstance(mark, LazyInput) for mark in found),
        variable=socket.variable,
        choices=socket.choices,
        folder=file.folder if file else None,
        embedded=dict(file.embedded) if file else {},
        description=next((field.description for field in fields if field.description), about(info.annotation)),
        step=widget.pop("step", bounds.get("multiple_of")),
        widget=widget,
        **bounds,
    )
    return spec if required else _with_default(spec, info.get_default(call_default_factory=True, validated_data={}), where)


def _with_default(spec: InputSpec, default: Any, where: str) -> InputSpec:
    if default is None and not spec.optional and spec.types != ("*",):
        raise DeclarationError(f"{where}: the default None needs a type that may be None, such as `... | None`")
    if spec.folder is None and (objection := spec.refuse(default)):
        raise DeclarationError(f"{where}: the default {objection[1]} ({objection[2]} is wanted)")
    try:
        json.dumps(default, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DeclarationError(f"{where}: the default {show(default)} has no JSON form") from error
    return spec.model_copy(update={"default": spec.canonical(default)})


def _bounds(found: list[Any], socket: Socket, where: str) -> dict[str, Any]:
    """Bounds, step and lengths; for whole numbers an exclusive bound is moved to the next one."""
    made: dict[str, Any] = {}
    whole = "INT" in socket.names and "FLOAT" not in socket.names
    for mark in found:
        if isinstance(mark, FieldInfo):
            continue
        for attribute, key, flag in (
            ("ge", "minimum", ""),
            ("gt", "minimum", "above"),
            ("le", "maximum", ""),
            ("lt", "maximum", "below"),
        ):
            bound = getattr(mark, attribute, None)
            if bound is None or key in made:
                continue
            if whole and math.isfinite(bound):
                bound = math.ceil(bound) if key == "minimum" else math.floor(bound)
                exact = bound == getattr(mark, attribute)
                made[key] = bound + {"above": 1, "below": -1}.get(flag, 0) if exact else bound
            elif math.isfinite(bound):
                made[key] = bound
                made |= {flag: True} if flag else {}
        for key in ("multiple_of", "min_length", "max_length", "pattern"):
            if (value := getattr(mark, key, None)) is not None:
                made.setdefault(key, getattr(value, "pattern", value))
    low, high = made.get("minimum"), made.get("maximum")
    if low is not None and high is not None and low > high:
        raise DeclarationError(f"{where}: the smallest value {low} is above the largest {high}")
    return made


def read_outputs(cls: type[Any]) -> tuple[OutputSpec, ...]:
    """The outputs that the return annotation of `run` declares. Raises DeclarationError, naming class and output."""
    where = f"{cls.__name__}.run"
    taken = [p for p in inspect.signature(cls.run).parameters.values() if p.default is p.empty]
    if len(taken) != 2:
        raise DeclarationError(f"{where}: takes ({', '.join(p.name for p in taken)}), not (self, ctx)")
    annotation = _return_annotation(cls)
    if annotation is PydanticUndefined:
        raise DeclarationError(f"{where}: annotate what it returns (None for a node with effects only)")
    if annotation is None or annotation is type(None):
        return ()
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        module = vars(sys.modules[annotation.__module__])
        hints = typing.get_type_hints(annotation, module, _locals(cls), include_extras=True)
        return tuple(_output(name, hint, f"{where} -> {name}") for name, hint in hints.items())
    socket = read_annotation(annotation, where, bases=True)
    return (_output(socket.names[0] if socket.variable is None else "value", annotation, where),)


def _output(name: str, annotation: Any, where: str) -> OutputSpec:
    socket = read_annotation(annotation, where, bases=True)
    description = next((mark.description for mark in marks(annotation) if isinstance(mark, FieldInfo) and mark.description), None)
    return OutputSpec(
        name=name,
        types=socket.names,
        list=socket.list,
        variable=socket.variable,
        choices=socket.choices,
        description=about(annotation) if description is None else description,
    )


def _return_annotation(cls: type[Any]) -> Any:
    # `ctx: Context` is often imported for type checkers only, so the return annotation is read alone
    given = cls.run.__annotations__.get("return", PydanticUndefined)
    if not isinstance(given, str):
        return given
    try:
        return eval(given, vars(sys.modules[cls.run.__module__]), _locals(cls))
    except (NameError, AttributeError) as error:
        raise DeclarationError(f"{cls.__name__}.run: {error}; import it where the class stands, not for type checkers only") from error


def _locals(cls: type[Any]) -> dict[str, Any]:
    """Names that annotations inside the class body may use: those of the class and its bases, and of the function
    around it.
    """
    around = getattr(cls, "__pydantic_parent_namespace__", None) or {}
    names = {name: value() if type(value).__name__ == "_PydanticWeakRef" else value for name, value in around.items()}
    for base in reversed(cls.__mro__):
        names |= vars(base)
    return names
