"""A whole server in a thread of the test, with the nodes of `work_nodes` and one worker process."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import picture_nodes
import uvicorn
import work_nodes

from graph_engine.registry import Registry
from server.app import create_app
from server.serve import configuration, listen
from server.settings import ServerSettings

MODULES = (work_nodes.__name__, picture_nodes.__name__)
SPECS = Registry()
for each in MODULES:
    SPECS.include(each)


class Running:
    """Where the server is, and plain HTTP to it."""

    def __init__(self, url: str, server: uvicorn.Server, home: Path) -> None:
        self.url, self.server, self.home = url, server, home

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                status, raw, kind = answer.status, answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            status, raw, kind = error.code, error.read(), error.headers.get_content_type()
        return status, json.loads(raw) if kind == "application/json" else raw

    def end_of(self, run: str, seconds: float = 30.0) -> dict[str, Any]:
        """The history entry of a run, when it is there."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            _, found = self.ask("GET", f"/history/{run}")
            if run in found:
                return found[run]
            time.sleep(0.02)
        raise AssertionError(f"{run} did not finish")


@contextmanager
def running(home: Path, port: int = 0, **options: Any) -> Iterator[Running]:
    settings = ServerSettings(home=home, port=port, grace=0.5, devices=("cpu",), **options)
    app = create_app(settings, SPECS.specs, MODULES)
    with listen(settings.host, port) as place:
        server = uvicorn.Server(configuration(app, settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        try:
            until = time.monotonic() + 30
            while not (server.started and app.state.server.dispatcher.workers[0].state == "idle"):
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < until, "the server did not get ready"
                time.sleep(0.01)
            yield Running(f"http://127.0.0.1:{place.getsockname()[1]}{settings.base.rstrip('/')}", server, home)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
