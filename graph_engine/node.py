"""The node declaration: a frozen pydantic class whose fields are the inputs and whose `run` annotation is the outputs."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from graph_engine.errors import DeclarationError
from graph_engine.sockets import LazyInput, read_annotation, with_instances
from graph_engine.spec import InputSpec, NodeSpec, OutputSpec

if TYPE_CHECKING:
    from graph_engine.context import Context

__all__ = ["File", "Linked", "Node"]


@dataclass(frozen=True, slots=True)
class File:
    """Marks a text field as the name of a file in a folder of one kind; its choices are the files, its identity their content.

    `embedded` maps names that ship with a package to "package:relative/path"; `upload` tells the editor to offer an upload button.
    """

    folder: str
    embedded: tuple[tuple[str, str], ...] = ()
    upload: bool = False


@dataclass(frozen=True, slots=True)
class Linked:
    """What a node's `check` sees in place of an input that comes over a link."""

    types: tuple[str, ...]
    node: str
    output: str


class Node(BaseModel):
    """A typed step of a workflow.

    Subclass with class keywords `category`, and where they differ from the defaults `version`, `output` (has effects, wanted by default),
    `cache`, `name` (the class_type), `title`, `aliases`, `deprecated`, `experimental`; declare inputs as fields and write `run`.
    """

    model_config = ConfigDict(
        frozen=True, arbitrary_types_allowed=True, defer_build=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )
    spec: ClassVar[NodeSpec]

    def __init_subclass__(cls, **declaration: Any) -> None:
        super().__init_subclass__()  # the class keywords are read below, once pydantic knows the fields

    @classmethod
    def __pydantic_init_subclass__(
        cls,
        *,
        category: str | None = None,
        version: int = 1,
        output: bool = False,
        cache: bool = True,
        name: str | None = None,
        title: str | None = None,
        aliases: Collection[str] = (),
        deprecated: bool = False,
        experimental: bool = False,
        **other: Any,
    ) -> None:
        if other:
            raise DeclarationError(f"{cls.__name__}: unknown class keyword {', '.join(other)}")
        if category is None:  # an abstract base that only shares fields
            return
        inputs = tuple(_input(cls, field, info) for field, info in cls.__pydantic_fields__.items())
        for info in cls.__pydantic_fields__.values():
            info.annotation = with_instances(info.annotation)
        cls.model_rebuild(force=True)
        cls.spec = NodeSpec(
            type=name or cls.__name__,
            version=version,
            title=title or name or cls.__name__,
            category=category,
            description=inspect.cleandoc(cls.__doc__ or ""),
            module=cls.__module__,
            inputs=inputs,
            outputs=_outputs(cls),
            output=output,
            cache=cache,
            aliases=tuple(aliases),
            deprecated=deprecated,
            experimental=experimental,
            checks=cls.check.__func__ is not Node.check.__func__,  # type: ignore[attr-defined]
            migrates=cls.migrate.__func__ is not Node.migrate.__func__,  # type: ignore[attr-defined]
        )

    def run(self, ctx: Context) -> Any:
        """Do the work; the annotation of the overriding method names the outputs. May be `async def`."""
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def wants(self) -> Iterable[str]:
        """Names of the lazy inputs that are needed, given those that are known (an unknown lazy input holds its default); asked until satisfied."""
        return [entry.name for entry in self.spec.inputs if entry.lazy]

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[str | tuple[str, str]]:
        """Objections that no single field can see, before anything runs: messages, or (field, message) pairs. Links show as `Linked`."""
        return ()

    @classmethod
    def migrate(cls, version: int, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of this node as saved under an older `version`, raised to the current one."""
        return inputs


def _input(cls: type[Node], name: str, info: FieldInfo) -> InputSpec:
    where = f"{cls.__name__}.{name}"
    socket = read_annotation(info.annotation, where)
    bounds = _bounds(info)
    file = next((mark for mark in info.metadata if isinstance(mark, File)), None)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    required = info.is_required()
    spec = InputSpec(
        name=name,
        types=("COMBO",) if file else socket.names,
        list=socket.list,
        optional=socket.optional,
        required=required,
        lazy=any(isinstance(mark, LazyInput) for mark in info.metadata),
        variable=socket.variable,
        default=None if required else info.get_default(call_default_factory=True, validated_data={}),
        choices=socket.choices,
        folder=file.folder if file else None,
        embedded=dict(file.embedded) if file else {},
        description=info.description or "",
        widget={**extra, **({"upload": True} if file and file.upload else {})},
        **bounds,
    )
    if not required and spec.default is not None and spec.folder is None and (objection := spec.refuse(spec.default)):
        raise DeclarationError(f"{where}: the default {objection[1]}")
    return spec


def _bounds(info: FieldInfo) -> dict[str, Any]:
    """Inclusive bounds and the step; an exclusive bound is moved to the next whole number for ints."""
    found: dict[str, Any] = {}
    for mark in info.metadata:
        for attribute, key, shift in (("ge", "minimum", 0), ("gt", "minimum", 1), ("le", "maximum", 0), ("lt", "maximum", -1)):
            if (value := getattr(mark, attribute, None)) is not None:
                exclusive_float = shift and info.annotation is not int
                found[key] = value + (shift * sys.float_info.epsilon if exclusive_float else shift)
        if (value := getattr(mark, "multiple_of", None)) is not None:
            found["step"] = value
    return found


def _outputs(cls: type[Node]) -> tuple[OutputSpec, ...]:
    where = f"{cls.__name__}.run"
    try:
        hints = typing.get_type_hints(cls.run, localns=dict(vars(cls)), include_extras=True)
    except NameError as error:
        # `ctx: Context` may be imported for type checkers only; the return annotation alone is needed
        annotation = _resolve_return(cls, error)
    else:
        annotation = hints.get("return", PydanticUndefined)
    if annotation is PydanticUndefined:
        raise DeclarationError(f"{where}: annotate what it returns (None for a node with effects only)")
    if annotation is None or annotation is type(None):
        return ()
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        module = vars(sys.modules[cls.__module__])
        fields = typing.get_type_hints(annotation, module, dict(vars(cls)), include_extras=True)
        return tuple(_output(name, hint, f"{where} -> {name}") for name, hint in fields.items())
    socket = read_annotation(annotation, where, bases=True)
    return (_output(socket.names[0] if socket.variable is None else "value", annotation, where),)


def _output(name: str, annotation: Any, where: str) -> OutputSpec:
    socket = read_annotation(annotation, where, bases=True)
    return OutputSpec(name=name, types=socket.names, list=socket.list, variable=socket.variable, choices=socket.choices)


def _resolve_return(cls: type[Node], error: NameError) -> Any:
    text = cls.run.__annotations__.get("return", PydanticUndefined)
    if not isinstance(text, str):
        return text
    module = vars(sys.modules[cls.run.__module__])
    try:
        return eval(text, module, dict(vars(cls)))  # noqa: S307 - a source annotation of the class itself
    except NameError:
        raise DeclarationError(f"{cls.__name__}.run: {error}") from error
