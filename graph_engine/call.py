"""Calling a node: its inputs as they arrive spread over one or several calls, the class built and run, and what it returns read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, create_model

from graph_engine.errors import NodeError
from graph_engine.expansion import Expansion
from graph_engine.node import Node
from graph_engine.record import Blocked
from graph_engine.sockets import ANY
from graph_engine.spec import InputSpec, NodeSpec
from graph_engine.walk import summary

if TYPE_CHECKING:
    from graph_engine.context import Context

__all__ = ["Returned", "ask", "blocked", "call", "call_async", "collect", "is_async", "spread"]

Values = dict[str, Any]
Returned = tuple[Any, ...] | Expansion  # of one call: the outputs, or what stands for them


def spread(spec: NodeSpec, values: Values, linked: Iterable[str]) -> tuple[list[Values], bool]:
    """The inputs of every call, and whether the node is mapped: a list on an input of single values gives one call for each item.

    Shorter lists repeat their last item; an empty list gives no call. A single value on a list input is a list of one.
    """
    mapped: dict[str, list[Any]] = {}
    for name in linked:
        wanted, value = spec.by_name[name], values[name]
        if wanted.list:
            if isinstance(value, list):
                if any(type(item) is Blocked for item in value):
                    values = {**values, name: [item for item in value if type(item) is not Blocked]}
            elif not (value is None and wanted.optional):
                values = {**values, name: [value]}
        elif isinstance(value, list) and not _takes_anything(wanted):
            mapped[name] = value
    if not mapped:
        return [values], False
    if any(not items for items in mapped.values()):
        return [], True
    count = max(map(len, mapped.values()))
    last = {name: len(items) - 1 for name, items in mapped.items()}
    return [{**values, **{name: items[min(i, last[name])] for name, items in mapped.items()}} for i in range(count)], True


def collect(spec: NodeSpec, returned: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The outputs of the calls of a mapped node as lists; outputs that are lists themselves are joined."""
    return tuple(
        [item for each in returned for item in each[i]] if output.list else [each[i] for each in returned]
        for i, output in enumerate(spec.outputs)
    )


def ask(cls: type[Node], values: Values) -> tuple[str, ...]:
    """Which lazy inputs the node wants, knowing these values; the others hold their defaults. Raises NodeError for other names."""
    spec = cls.spec
    unknown = {wanted.name: wanted.default for wanted in spec.inputs if wanted.name not in values}
    names = cls.model_construct(**unknown, **values).wants()
    if isinstance(names, str):
        names = (names,)
    asked = tuple(dict.fromkeys(names))
    for name in asked:
        if name not in spec.by_name:
            raise NodeError(f"wants() asks for {name!r}, which is not an input")
    return asked


def call(cls: type[Node], values: Values, ctx: Context) -> Returned:
    """Build the node and run it."""
    if (given := blocked(values)) is not None:
        return (given,) * len(cls.spec.outputs)
    return _read(cls.spec, _build(cls, values).run(ctx))


async def call_async(cls: type[Node], values: Values, ctx: Context) -> Returned:
    """Build a node whose `run` is async, and await it."""
    if (given := blocked(values)) is not None:
        return (given,) * len(cls.spec.outputs)
    return _read(cls.spec, await _build(cls, values).run(ctx))


def is_async(cls: type[Node]) -> bool:
    return inspect.iscoroutinefunction(cls.run)


def blocked(values: Mapping[str, Any]) -> Blocked | None:
    """The first input that has no value."""
    for value in values.values():
        if type(value) is Blocked:
            return value
    return None


def _takes_anything(wanted: InputSpec) -> bool:
    return wanted.variable is None and ANY in wanted.types


def _build(cls: type[Node], values: Values) -> Node:
    missing = frozenset(each.name for each in cls.spec.inputs if each.lazy and each.required and each.name not in values)
    try:
        return (_without(cls, missing) if missing else cls)(**values)
    except ValidationError as error:
        found = []
        for each in error.errors(include_url=False, include_input=False):
            name = str(each["loc"][0]) if each["loc"] else ""
            got = f", got {summary(values[name])}" if name in values else ""
            found.append(f"{name or 'inputs'}: {each['msg']}{got}")
        raise NodeError("inputs do not fit: " + "; ".join(found)) from None


@lru_cache(maxsize=1024)
def _without(cls: type[Node], missing: frozenset[str]) -> type[Node]:
    """The same class with lazy inputs that nobody asked for, and that have no default, as None."""
    fields: dict[str, Any] = dict.fromkeys(missing, (Any, None))
    return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)


def _read(spec: NodeSpec, returned: Any) -> Returned:
    """What `run` returned, as a tuple of outputs. Raises NodeError when it is not what was declared."""
    count = len(spec.outputs)
    if isinstance(returned, Expansion):
        if len(returned.outputs) != count:
            raise NodeError(f"expands to {len(returned.outputs)} outputs, {count} are declared")
        return returned
    if count == 0:
        return ()
    if count == 1:
        outputs: tuple[Any, ...] = (returned,)
    elif isinstance(returned, tuple) and len(returned) == count:
        outputs = tuple(returned)
    else:
        names = ", ".join(output.name for output in spec.outputs)
        raise NodeError(f"returned {summary(returned)}; {count} outputs are declared: {names}")
    for i, output in enumerate(spec.outputs):
        if output.list and type(outputs[i]) is not list and type(outputs[i]) is not Blocked:
            if not isinstance(outputs[i], (list, tuple)):
                raise NodeError(f"output {output.name}: a list is declared, {summary(outputs[i])} returned")
            outputs = (*outputs[:i], list(outputs[i]), *outputs[i + 1 :])
    return outputs
