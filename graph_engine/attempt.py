"""One attempt to run a node: its calls one after another, once more after an out-of-memory, and the check that it left its inputs alone."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from graph_engine.call import Returned, call, call_async, spread
from graph_engine.errors import Cancelled, NodeError
from graph_engine.walk import versions

if TYPE_CHECKING:
    from graph_engine.context import Context
    from graph_engine.device import Device
    from graph_engine.task import Task

__all__ = ["Outcome", "Reason", "attempt", "attempt_async", "explain"]

Reason = Literal["error", "oom", "cancelled", "mutation"]
_EVERYTHING = 1 << 62


@dataclass(slots=True)
class Outcome:
    """How an attempt ended: what each call returned, or why there is nothing."""

    returned: list[Returned] = field(default_factory=list)
    mapped: bool = False
    seconds: float = 0.0
    context: Context | None = None
    error: BaseException | None = None
    reason: Reason = "error"
    residents: tuple[tuple[str, int], ...] = ()
    mutated: tuple[str, ...] = ()


def attempt(task: Task, values: dict[str, Any], context: Callable[[], Context], device: Device, *, debug: bool = False) -> Outcome:
    """Run a node. Never raises: also what a node raises to end the process is its failure only."""
    began = time.perf_counter()
    before = _versions(values) if debug else {}
    for last in (False, True):
        outcome = Outcome(context=context())
        try:
            _calls(task, values, outcome)
        except BaseException as error:
            outcome.error, outcome.reason = error, _reason(error, device)
        outcome.seconds = time.perf_counter() - began
        if outcome.reason != "oom":
            break
        if last:
            outcome.residents = tuple(device.residents())
        elif outcome.error is not None:
            traceback.clear_frames(outcome.error.__traceback__)  # they hold what the node had made so far
            outcome = Outcome()
            device.shed(_EVERYTHING)
    return _pure(outcome, values, before)


async def attempt_async(
    task: Task, values: dict[str, Any], context: Callable[[], Context], device: Device, *, debug: bool = False
) -> Outcome:
    """Await a node whose `run` is async. Never raises, not even when it is cancelled."""
    began = time.perf_counter()
    before = _versions(values) if debug else {}
    outcome = Outcome(context=context())
    assert outcome.context is not None
    try:
        calls, outcome.mapped = spread(task.spec, values, [*task.links, *task.constants])
        for i, each in enumerate(calls):
            outcome.context.check()
            outcome.context._call(i, len(calls))
            outcome.returned.append(await call_async(task.cls, each, outcome.context))
    except BaseException as error:
        outcome.error, outcome.reason = error, _reason(error, device)
        if outcome.reason == "oom":
            outcome.residents = tuple(device.residents())
    outcome.seconds = time.perf_counter() - began
    return _pure(outcome, values, before)


def explain(error: BaseException) -> tuple[str, tuple[str, ...]]:
    """The message of a failure, and its traceback from the node's own code on."""
    text = str(error)
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__name__") in _OURS:
        trace = trace.tb_next
    return text, tuple(traceback.format_exception(type(error), error, trace))


_OURS = (__name__, "graph_engine.call", "graph_engine.executor", "graph_engine.launch", "graph_engine.lookup")


def _calls(task: Task, values: dict[str, Any], outcome: Outcome) -> None:
    ctx = outcome.context
    assert ctx is not None
    calls, outcome.mapped = spread(task.spec, values, [*task.links, *task.constants])
    if not outcome.mapped:
        outcome.returned.append(call(task.cls, calls[0], ctx))
        return
    for i, each in enumerate(calls):
        ctx.check()
        ctx._call(i, len(calls))
        outcome.returned.append(call(task.cls, each, ctx))


def _reason(error: BaseException, device: Device) -> Reason:
    if isinstance(error, (Cancelled, asyncio.CancelledError)):
        return "cancelled"
    return "oom" if device.is_oom(error) else "error"


def _versions(values: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: found for name, value in values.items() if (found := versions(value))}


def _pure(outcome: Outcome, values: Mapping[str, Any], before: Mapping[str, list[int]]) -> Outcome:
    if before:
        outcome.mutated = tuple(name for name, found in before.items() if versions(values[name]) != found)
    if outcome.mutated and outcome.error is None:
        names = ", ".join(outcome.mutated)
        outcome.error = NodeError(f"the node wrote into the tensors of its input {names}; work on a copy (`x.clone()`)")
        outcome.reason = "mutation"
    return outcome
