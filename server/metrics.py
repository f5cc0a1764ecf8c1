"""What the server counts, in the form that Prometheus collects.

Runs are counted from the engine's own events (`Metrics.watch` stands between the dispatcher and the story of a run); queue, clients and
memory are looked up when somebody collects.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graph_engine.events import Event, NodeCached, NodeDone, NodeFailed, RunDone
from server.protocol.messages import Message as Told
from server.protocol.messages import Preview
from server.runs import Run
from server.workers.roles import Teller

__all__ = ["Metrics", "Sample", "Timed"]

_HTTP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_NODE_SECONDS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

Sample = tuple[str, str, dict[str, str], float]  # name, meaning, labels, value


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.runs = Counter("latentgraph_runs", "Runs that ended, by how", ["status"], registry=self.registry)
        self.run_seconds = Histogram("latentgraph_run_seconds", "Seconds from the start of a run to its end", registry=self.registry)
        self.node_seconds = Histogram(
            "latentgraph_node_seconds", "Seconds that a node ran, by type", ["type"], buckets=_NODE_SECONDS, registry=self.registry
        )
        self.failures = Counter(
            "latentgraph_node_failures", "Nodes that failed, by type and reason", ["type", "reason"], registry=self.registry
        )
        self.cache = Counter(
            "latentgraph_cache", "Nodes whose result was there already (hit) or not (miss)", ["result"], registry=self.registry
        )
        self.http = Histogram(
            "latentgraph_http_seconds",
            "Seconds until an HTTP answer was complete",
            ["method", "route", "code"],
            buckets=_HTTP_SECONDS,
            registry=self.registry,
        )
        for result in ("hit", "miss"):
            self.cache.labels(result)
        for status in ("success", "error", "interrupted"):
            self.runs.labels(status)

    def watch(self, run: Run, teller: Teller) -> Teller:
        """The same teller, with every event counted on its way."""
        return _Watched(self, run, teller)

    def text(self, present: Iterable[Sample]) -> bytes:
        """Everything in the Prometheus text format 0.0.4, with how things are now."""
        return generate_latest(self.registry) + generate_latest(_Present(present))


class _Present(CollectorRegistry):
    """Gauges that are made for one collection, so that what is gone, such as a model that was unloaded, does not linger."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        super().__init__()
        self._families: dict[str, GaugeMetricFamily] = {}
        values: dict[tuple[str, tuple[str, ...]], float] = {}
        for name, meaning, labels, value in samples:
            self._families.setdefault(name, GaugeMetricFamily(name, meaning, labels=list(labels)))
            key = name, tuple(labels.values())
            values[key] = values.get(key, 0.0) + value
        for (name, of), value in values.items():
            self._families[name].add_metric(of, value)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


class _Watched:
    """A teller whose events are counted."""

    def __init__(self, metrics: Metrics, run: Run, teller: Teller) -> None:
        self._metrics, self._teller = metrics, teller
        self._types = {id: str(node.get("class_type", "")) for id, node in run.document.items() if isinstance(node, dict)}

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        return self._teller.outputs

    @property
    def meta(self) -> dict[str, dict[str, Any]]:
        return self._teller.meta

    @property
    def messages(self) -> list[list[Any]]:
        return self._teller.messages

    @property
    def error(self) -> dict[str, Any] | None:
        return self._teller.error

    def tell(self, event: Event) -> Sequence[Told | Preview]:
        metrics = self._metrics
        if isinstance(event, NodeDone):
            metrics.cache.labels("miss").inc()
            metrics.node_seconds.labels(self._types.get(event.node) or self._types.get(event.parent, "")).observe(event.seconds)
        elif isinstance(event, NodeCached):
            metrics.cache.labels("hit").inc()
        elif isinstance(event, NodeFailed):
            metrics.failures.labels(event.class_type, event.reason).inc()
        elif isinstance(event, RunDone):
            metrics.runs.labels("interrupted" if event.status == "cancelled" else event.status).inc()
            metrics.run_seconds.observe(event.seconds)
        return self._teller.tell(event)


class Timed:
    """ASGI middleware that notes how long each HTTP answer took, by the route's own path rather than the one asked for."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, code = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, note)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "") or "other"  # never what a client made up: labels are kept for ever
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.http.labels(method, path, str(code)).observe(time.perf_counter() - began)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
