"""Types of inputs and outputs, read from annotations: scalars, choices, values with a `socket` name, lists, unions, optionals."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import InstanceOf

from graph_engine.errors import DeclarationError

__all__ = ["ANY", "SCALARS", "Lazy", "LazyInput", "Socket", "accepts", "read_annotation", "with_instances"]

T = TypeVar("T")

ANY = "*"
SCALARS: dict[type, str] = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}


class LazyInput:
    """Marks an input that is computed only when the node's `wants` asks for it."""


Lazy = Annotated[T, LazyInput()]


@dataclass(frozen=True, slots=True)
class Socket:
    """What a link may carry: the names it answers to, whether it is a list, and the type variable it is bound to, if any.

    An output lists its own name first and then those of its base classes, so that a subclass fits where its base is wanted; an input lists
    what it takes.
    """

    names: tuple[str, ...]
    list: bool = False
    optional: bool = False
    variable: str | None = None
    choices: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        return "|".join(self.names[:1] if self.variable is None else (ANY,)) + ("[]" if self.list else "")


def accepts(wanted: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether an output that provides `given` fits an input that takes `wanted`; a whole number fits a FLOAT, a choice fits a STRING and back."""
    if ANY in wanted or ANY in given or set(wanted) & set(given):
        return True
    widened = {"INT": "FLOAT", "COMBO": "STRING", "STRING": "COMBO"}
    return any(widened.get(name) in wanted for name in given)


def read_annotation(annotation: Any, where: str, *, bases: bool = False) -> Socket:
    """Read one annotation into a Socket, with the names of base classes too if `bases`.

    Raises DeclarationError, naming `where`, for a type that cannot travel on a link.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return read_annotation(args[0], where, bases=bases)
    if annotation is Any:
        return Socket((ANY,))
    if isinstance(annotation, TypeVar):
        return Socket((ANY,), variable=annotation.__name__)
    if annotation in SCALARS:
        return Socket((SCALARS[annotation],))
    if origin is Literal:
        return Socket(("COMBO",), choices=args)
    if origin is list:
        inner = read_annotation(args[0], where, bases=bases)
        if inner.list or inner.optional:
            raise DeclarationError(f"{where}: a list of {inner} cannot travel on a link; use list[VALUE]")
        return Socket(inner.names, list=True, variable=inner.variable, choices=inner.choices)
    if origin in (Union, types.UnionType):
        return _read_union(args, where, bases)
    if isinstance(annotation, type) and isinstance(getattr(annotation, "socket", None), str):
        names = [base.__dict__["socket"] for base in annotation.__mro__ if isinstance(base.__dict__.get("socket"), str)]
        return Socket(tuple(names) if bases else tuple(names[:1]))
    raise DeclarationError(f"{where}: {annotation!r} cannot travel on a link; use a scalar, Literal, or a class with a `socket` name")


def _read_union(args: tuple[Any, ...], where: str, bases: bool) -> Socket:
    members = [read_annotation(arg, where, bases=bases) for arg in args if arg is not type(None)]
    optional = len(members) < len(args)
    lists = {member.list for member in members}
    if len(lists) > 1:
        raise DeclarationError(f"{where}: a union of a list and a single value is ambiguous")
    variable = next((member.variable for member in members if member.variable), None)
    names = tuple(dict.fromkeys(name for member in members for name in member.names))
    choices = members[0].choices if len(members) == 1 else None
    return Socket(names, list=lists == {True}, optional=optional, variable=variable, choices=choices)


def with_instances(annotation: Any) -> Any:
    """The same annotation with every socket class checked by `isinstance` only, so that values pass through untouched."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is list:
        return list[with_instances(args[0])]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return Union[tuple(with_instances(arg) for arg in args)]  # noqa: UP007
    if isinstance(annotation, type) and isinstance(getattr(annotation, "socket", None), str):
        return InstanceOf[annotation]  # type: ignore[valid-type]
    return annotation
