"""The node classes that are installed: walked from the entry points, or given one by one."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

from graph_engine.errors import DeclarationError
from graph_engine.node import Node
from graph_engine.spec import NodeSpec
from graph_engine.suggest import did_you_mean

__all__ = ["GROUP", "Broken", "Registry", "node_packages"]

GROUP = "latentgraph.nodes"


@dataclass(frozen=True, slots=True)
class Broken:
    """A package, a module of one, or a node that could not be taken in; `error` says why in one line."""

    name: str
    error: str
    traceback: str = ""


class Registry:
    """Node classes by type."""

    def __init__(self) -> None:
        self._classes: dict[str, type[Node]] = {}
        self._specs: dict[str, NodeSpec] = {}
        self._broken: list[Broken] = []

    @classmethod
    def of(cls, *classes: type[Node]) -> Registry:
        """A registry of exactly these classes."""
        made = cls()
        for each in classes:
            made.add(each)
        return made

    @classmethod
    def discover(cls) -> Registry:
        """Import every node package that is installed; what cannot be imported is in `broken` and the rest is taken."""
        made = cls()
        for point in node_packages():
            made._take(point)
        return made

    def include(self, module: str) -> None:
        """Import a package or module by name and take in its nodes. Raises DeclarationError when it cannot be imported."""
        known = len(self._broken)
        self._take(importlib.metadata.EntryPoint(module, module, GROUP))
        if len(self._broken) > known:
            raise DeclarationError("; ".join(f"{each.name}: {each.error}" for each in self._broken[known:]))

    def add(self, cls: type[Node], *, package: str = "") -> type[Node]:
        """Take in one class, under the name of the package it came with. Raises DeclarationError for a type that is
        taken or not a node.
        """
        spec = cls.__dict__.get("spec") if isinstance(cls, type) and issubclass(cls, Node) else None
        if not isinstance(spec, NodeSpec):
            raise DeclarationError(f"{getattr(cls, '__name__', cls)} is not a node: subclass Node with a category")
        if (taken := self._classes.get(spec.type)) is not None and taken is not cls:
            raise DeclarationError(f"the node type {spec.type!r} of {cls.__module__} is already declared in {taken.__module__}")
        self._classes[spec.type] = cls
        self._specs[spec.type] = spec.model_copy(update={"package": package}) if package else spec
        return cls

    @property
    def specs(self) -> Mapping[str, NodeSpec]:
        """What every node declares, by type."""
        return MappingProxyType(self._specs)

    @property
    def broken(self) -> tuple[Broken, ...]:
        """What discovery had to leave out."""
        return tuple(self._broken)

    def __getitem__(self, type: str) -> type[Node]:
        try:
            return self._classes[type]
        except KeyError:
            hint = did_you_mean(type, self._classes)
            raise KeyError(f"no node type {type!r}" + (f"; {hint}" if hint else "")) from None

    def get(self, type: str) -> type[Node] | None:
        return self._classes.get(type)

    def __contains__(self, type: object) -> bool:
        return type in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def _take(self, point: importlib.metadata.EntryPoint) -> None:
        if point.attr:
            self._broken.append(Broken(point.name, f"the entry point must name a package or module, not {point.value!r}"))
            return
        package = self._import(point.module, point.name)
        if package is None:
            return
        self._collect(package, point.name)
        if hasattr(package, "__path__"):
            for module in self._walk(package, point.name):
                self._collect(module, point.name)

    def _walk(self, package: ModuleType, name: str) -> Iterator[ModuleType]:
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if found.name.rpartition(".")[2] == "__main__":
                continue
            module = self._import(found.name, f"{name}:{found.name}")
            if module is None:
                continue
            yield module
            if found.ispkg:
                yield from self._walk(module, name)

    def _import(self, module: str, name: str) -> ModuleType | None:
        try:
            return importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module may well call sys.exit
            self._broken.append(Broken(name, f"{type(error).__name__}: {error}", traceback.format_exc()))
            return None

    def _collect(self, module: ModuleType, package: str) -> None:
        for value in list(vars(module).values()):
            if _declared_in(value, module):
                try:
                    self.add(value, package=package)
                except DeclarationError as error:
                    self._broken.append(Broken(f"{package}:{module.__name__}.{value.__name__}", str(error)))


def node_packages() -> list[importlib.metadata.EntryPoint]:
    """The installed node packages, ours (`core`) first, the others by name."""
    points = set(importlib.metadata.entry_points(group=GROUP))
    return sorted(points, key=lambda point: (point.name != "core", point.name, point.value))


def _declared_in(value: Any, module: ModuleType) -> bool:
    return isinstance(value, type) and issubclass(value, Node) and "spec" in value.__dict__ and value.__module__ == module.__name__
