"""How the server is doing: versions and devices, memory, metrics, health, its own description and its last log lines."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from graph_engine.device import host_memory
from server.machine import free_memory, version
from server.metrics import Sample
from server.openapi import document
from server.refusal import Refused
from server.state import ServerState
from server.workers.seat import resident_bytes

__all__ = ["routes", "samples"]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_FRONT_END = "comfyui-frontend-package"


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/system_stats", system_stats),
        Route("/memory", memory),
        Route("/metrics", metrics),
        Route("/health", health),
        Route("/openapi.json", openapi),
        Route("/internal/logs", logs),
        Route("/internal/logs/raw", raw_logs),
        Route("/internal/logs/subscribe", subscribe, methods=["PATCH"]),
    ]


async def system_stats(request: Request) -> Response:
    """Versions, memory of the machine, and the devices that workers compute on; the editor's top bar reads it."""
    server: ServerState = request.app.state.server
    system: dict[str, Any] = {
        "os": sys.platform,
        "ram_total": host_memory(),
        "ram_free": free_memory(),
        "comfyui_version": version("latentgraph"),
        "latentgraph_version": version("latentgraph"),
        "python_version": platform.python_version(),
        "pytorch_version": version("torch"),
        "embedded_python": False,
        # without this word the editor asks a foreign service for news; what it names is not here anyway
        "argv": ["latentgraph", "serve", "--disable-api-nodes"],
        "uptime": round(time.time() - server.started, 1),
    }
    if (wanted := version(_FRONT_END)) != "none":
        system["required_frontend_version"] = wanted
    devices = [_device(worker, index) for index, worker in enumerate(server.dispatcher.memory())]
    return JSONResponse({"system": system, "devices": devices})


async def memory(request: Request) -> Response:
    """Who holds how much memory, worker by worker."""
    server: ServerState = request.app.state.server
    process = {"pid": os.getpid(), "resident_bytes": resident_bytes(os.getpid())}
    return JSONResponse({"server": process, "workers": await server.dispatcher.survey()})


async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    server: ServerState = request.app.state.server
    return Response(server.metrics.text(samples(server)), media_type=_PROMETHEUS)


async def health(request: Request) -> Response:
    """That the server answers, and how its workers are."""
    server: ServerState = request.app.state.server
    pending, running = server.journal.counts()
    states = [worker.state for worker in server.dispatcher.workers]
    return JSONResponse({"status": "ok", "workers": states, "pending": pending, "running": running})


async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    settings = request.app.state.server.settings
    return JSONResponse(document(settings.base, token=settings.token is not None))


async def logs(request: Request) -> Response:
    """The last log lines as one JSON string."""
    server: ServerState = request.app.state.server
    return JSONResponse("".join(f"{entry['t']} - {entry['m']}" for entry in tuple(server.logs.entries)))


async def raw_logs(request: Request) -> Response:
    """The last log lines with their times."""
    server: ServerState = request.app.state.server
    return JSONResponse({"entries": list(server.logs.entries), "size": {"cols": 120, "rows": 40}})


async def subscribe(request: Request) -> Response:
    """Send log lines to a client's WebSocket, or stop."""
    server: ServerState = request.app.state.server
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict) or not isinstance(body.get("clientId"), str) or not isinstance(body.get("enabled"), bool):
        raise Refused(400, 'the body must be {"enabled": true or false, "clientId": "..."}')
    if not body["enabled"]:
        server.logs.clients.discard(body["clientId"])
    elif len(server.logs.clients) < server.settings.client_limit:
        server.logs.clients.add(body["clientId"])
    else:
        raise Refused(429, "too many clients listen to the log")
    return Response()


def samples(server: ServerState) -> Iterator[Sample]:
    """The present state, as the metrics show it."""
    pending, running = server.journal.counts()
    yield "latentgraph_queue_pending", "Runs that wait", {}, pending
    yield "latentgraph_queue_running", "Runs that run", {}, running
    yield "latentgraph_clients", "WebSockets that are open", {}, server.hub.sockets
    yield (
        "latentgraph_messages_dropped",
        "Passing messages and previews that gave way to newer ones for slow clients",
        {},
        server.hub.dropped,
    )
    yield "latentgraph_messages_waiting_bytes", "Bytes that wait for slow clients", {}, server.hub.waiting
    yield "latentgraph_server_resident_bytes", "Memory of the server process", {}, resident_bytes(os.getpid()) or 0
    for worker in server.dispatcher.memory():
        place = {"worker": str(worker["name"]), "device": str(worker["device"])}
        yield "latentgraph_worker_up", "Whether the worker is there", place, worker["state"] in ("idle", "running")
        yield "latentgraph_worker_restarts", "How often the worker was started anew", place, worker["restarts"]
        yield "latentgraph_worker_resident_bytes", "Memory of the worker process", place, worker["resident_bytes"] or 0
        yield "latentgraph_worker_budget_bytes", "What weights and results may hold of the device", place, worker["budget_bytes"]
        for holder in worker["residents"]:
            labels = {**place, "owner": str(holder["owner"])}
            yield "latentgraph_resident_bytes", "Memory of the device by who holds it", labels, holder["bytes"]


def _device(worker: dict[str, Any], index: int) -> dict[str, Any]:
    facts = worker["facts"]  # empty until the worker has said hello
    return {
        "name": facts.get("name", worker["device"]),
        "type": facts.get("type", str(worker["device"]).partition(":")[0]),
        "index": facts.get("index", index),
        "vram_total": facts.get("total", 0),
        "vram_free": facts.get("free", 0),
        "torch_vram_total": facts.get("held", 0),
        "torch_vram_free": facts.get("spare", 0),
    }
