"""Types of inputs and outputs, read from annotations: scalars, choices, values with a `socket` name, lists, unions,
optionals.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from graph_engine.errors import DeclarationError

__all__ = ["ANY", "SCALARS", "Lazy", "LazyInput", "Socket", "about", "accepts", "marks", "read_annotation", "with_instances"]

T = TypeVar("T")

ANY = "*"
SCALARS: dict[type, str] = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}
_WIDER = {"INT": "FLOAT", "COMBO": "STRING", "STRING": "COMBO"}


class LazyInput:
    """Marks an input that is computed only when the node's `wants` asks for it."""


Lazy = Annotated[T, LazyInput()]


@dataclass(frozen=True, slots=True)
class Socket:
    """What a link may carry: the names it answers to, whether it is a list, and the type variable it is bound to, if
    any.

    An output lists its own name first and then those of its base classes, so that a subclass fits where its base is
    wanted; an input lists what it takes.
    """

    names: tuple[str, ...]
    list: bool = False
    optional: bool = False
    variable: str | None = None
    choices: tuple[Any, ...] | None = None

    def __str__(self) -> str:
        return "|".join(self.names) + ("[]" if self.list else "")


def accepts(wanted: tuple[str, ...], given: tuple[str, ...]) -> bool:
    """Whether an output that provides `given` fits an input that takes `wanted`; a whole number fits a FLOAT, a choice
    fits a STRING and back.
    """
    if ANY in wanted or ANY in given or not set(wanted).isdisjoint(given):
        return True
    return any(_WIDER.get(name) in wanted for name in given)


def read_annotation(annotation: Any, where: str, *, bases: bool = False) -> Socket:
    """Read one annotation into a Socket, with the names of base classes too if `bases`.

    Raises DeclarationError, naming `where`, for a type that cannot travel on a link.
    """
    annotation = _unwrapped(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return Socket((ANY,))
    if isinstance(annotation, TypeVar):
        return _read_variable(annotation, where, bases)
    if isinstance(annotation, type) and annotation in SCALARS:
        return Socket((SCALARS[annotation],))
    if origin is Literal:
        return _read_choices(args, where)
    if origin is list:
        inner = read_annotation(args[0], where, bases=bases)
        if inner.list or inner.optional:
            raise DeclarationError(f"{where}: a list of lists or of optional values cannot travel on a link; use list[VALUE]")
        return Socket(inner.names, list=True, variable=inner.variable, choices=inner.choices)
    if origin in (Union, types.UnionType):
        return _read_union(args, where, bases)
    if _is_value(annotation):
        names = [base.__dict__["socket"] for base in annotation.__mro__ if isinstance(base.__dict__.get("socket"), str)]
        return Socket(tuple(names) if bases else tuple(names[:1]))
    if isinstance(annotation, (str, ForwardRef)):
        name = annotation if isinstance(annotation, str) else annotation.__forward_arg__
        raise DeclarationError(f"{where}: the name {name!r} cannot be read; import it where the class stands, not for type checkers only")
    raise DeclarationError(f"{where}: {annotation!r} cannot travel on a link; use a scalar, Literal, or a class with a `socket` name")


def marks(annotation: Any) -> Iterator[Any]:
    """What `Annotated` says anywhere in the annotation, also within a list, a union or an optional; a Field gives
    itself and its bounds.
    """
    if hasattr(annotation, "__value__"):
        yield from marks(annotation.__value__)
    elif get_origin(annotation) is Annotated:
        inner, *found = get_args(annotation)
        for mark in found:
            if isinstance(mark, FieldInfo):
                yield from mark.metadata
            yield mark
        yield from marks(inner)
    elif get_origin(annotation) in (Union, types.UnionType, list):
        for inner in get_args(annotation):
            yield from marks(inner)


def about(annotation: Any) -> str:
    """The first sentence that the first value class in the annotation says of itself; empty for scalars."""
    annotation = _unwrapped(annotation)
    if _is_value(annotation):
        said = inspect.getdoc(annotation) or ""
        made = said.startswith(f"{annotation.__name__}(")  # by dataclass, where nothing was written
        return "" if made else re.split(r"(?<=\.)\s|\n\n", said, maxsplit=1)[0].replace("\n", " ")
    inner = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType, list) else ()
    return next((said for each in inner if (said := about(each))), "")


def with_instances(annotation: Any) -> Any:
    """The same annotation with every socket class checked by `isinstance` only, so that values pass through
    untouched.
    """
    if hasattr(annotation, "__value__"):
        return with_instances(annotation.__value__)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(with_instances(args[0]), *args[1:])]
    if origin is list:
        return list[with_instances(args[0])]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return Union[tuple(with_instances(arg) for arg in args)]  # noqa: UP007
    if isinstance(annotation, TypeVar):
        return Any  # what it stands for is settled when the workflow is validated
    return Annotated[Any, _Instance(annotation)] if _is_value(annotation) else annotation


class _Instance:
    """Lets pydantic check a value by `isinstance` without looking into its class."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(self.cls)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"socket": self.cls.socket}


def _is_value(annotation: Any) -> bool:
    return isinstance(annotation, type) and isinstance(getattr(annotation, "socket", None), str)


def _unwrapped(annotation: Any) -> Any:
    while True:
        if hasattr(annotation, "__value__"):  # `type Name = ...` of Python 3.12
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        else:
            return annotation


def _read_variable(variable: TypeVar, where: str, bases: bool) -> Socket:
    allowed = variable.__constraints__ or ((variable.__bound__,) if variable.__bound__ is not None else ())
    inner = [read_annotation(each, where, bases=bases) for each in allowed]
    if any(each.list or each.optional or each.variable for each in inner):
        raise DeclarationError(f"{where}: the type variable {variable.__name__} must stand for single values")
    names = tuple(dict.fromkeys(name for each in inner for name in each.names))
    return Socket(names or (ANY,), variable=variable.__name__)


def _read_choices(choices: tuple[Any, ...], where: str) -> Socket:
    if any(not isinstance(choice, (str, int)) for choice in choices):
        raise DeclarationError(f"{where}: the choices {choices!r} must be texts, whole numbers or booleans")
    return Socket(("COMBO",), choices=choices)


def _read_union(args: tuple[Any, ...], where: str, bases: bool) -> Socket:
    members = [read_annotation(arg, where, bases=bases) for arg in args if arg is not type(None)]
    if len({member.list for member in members}) > 1:
        raise DeclarationError(f"{where}: a union of a list and a single value is ambiguous")
    variable = next((member.variable for member in members if member.variable), None)
    if variable and len(members) > 1:
        raise DeclarationError(f"{where}: a union with a type variable is ambiguous; constrain the variable instead")
    names = tuple(dict.fromkeys(name for member in members for name in member.names))
    choices = tuple(choice for member in members for choice in member.choices or ()) or None
    optional = len(members) < len(args) or any(member.optional for member in members)
    return Socket(names, list=members[0].list, optional=optional, variable=variable, choices=choices)
