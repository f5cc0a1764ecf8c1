"""The node declaration: a frozen pydantic class whose fields are the inputs and whose `run` annotation is the
outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from graph_engine.declaration import File, read_inputs, read_outputs
from graph_engine.errors import DeclarationError
from graph_engine.sockets import with_instances
from graph_engine.spec import NodeSpec

if TYPE_CHECKING:
    from graph_engine.context import Context

__all__ = ["File", "Linked", "Node"]


@dataclass(frozen=True, slots=True)
class Linked:
    """What a node's `check` sees in place of an input that comes over a link."""

    types: tuple[str, ...]
    node: str
    output: str


class Node(BaseModel):
    """A typed step of a workflow.

    Subclass with class keywords `category`, and where they differ from the defaults `version`, `output` (has effects,
    wanted by default), `cache`, `name` (the class_type), `title`, `aliases`, `deprecated`, `experimental`; declare
    inputs as fields and write `run`.
    """

    model_config = ConfigDict(
        frozen=True,
        arbitrary_types_allowed=True,
        defer_build=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
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
        aliases: Collection[str] = (),
        deprecated: bool = False,
        experimental: bool = False,
        **other: Any,
    ) -> None:
        if other:
            raise DeclarationError(f"{cls.__name__}: unknown class keyword {', '.join(other)}")
        if category is None:  # an abstract base that only shares fields
            return
        if not category:
            raise DeclarationError(f"{cls.__name__}: the category is empty, and the editor hides a node that has none")
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise DeclarationError(f"{cls.__name__}: version {version!r} is not a whole number from 1 up")
        if taken := cls.__pydantic_fields__.keys() & {"run", "wants", "check", "migrate", "spec"}:
            raise DeclarationError(f"{cls.__name__}: {', '.join(sorted(taken))} cannot be the name of an input")
        if cls.run is Node.run:
            raise DeclarationError(f"{cls.__name__}: a node needs a method `run(self, ctx)`")
        inputs = read_inputs(cls)
        for info in cls.__pydantic_fields__.values():
            info.annotation = with_instances(info.annotation)
        cls.model_rebuild(force=True)
        cls.spec = NodeSpec(
            type=name or cls.__name__,
            version=version,
            title=_own_title(cls) or name or cls.__name__,
            category=category,
            description=inspect.cleandoc(cls.__doc__ or ""),
            module=cls.__module__,
            inputs=inputs,
            outputs=read_outputs(cls),
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
        """Names of the lazy inputs that are needed, given those that are known (an unknown lazy input holds its
        default); asked until satisfied.
        """
        return [entry.name for entry in self.spec.inputs if entry.lazy]

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[str | tuple[str, str]]:
        """Objections that no single field can see, before anything runs: messages, or (field, message) pairs. Links
        show as `Linked`.
        """
        return ()

    @classmethod
    def migrate(cls, version: int, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of this node as saved under an older `version`, raised to the current one."""
        return inputs


def _own_title(cls: type[Node]) -> str | None:
    # pydantic takes the class keyword `title` for its own configuration, and hands it down to subclasses
    title = cls.model_config.get("title")
    inherited = {base.model_config.get("title") for base in cls.__mro__[1:] if issubclass(base, Node)}
    return None if title in inherited else title
