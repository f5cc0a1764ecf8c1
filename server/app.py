"""The composition root of the server: every part is made here, and every route gets its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount

from graph_engine import Catalogue, Folders, NodeSpec
from server import pages
from server.hub import Hub, features
from server.journal import Journal
from server.logs import Entry, Recent
from server.metrics import Metrics, Timed
from server.protocol.messages import Message
from server.protocol.story import Story
from server.refusal import Refused, answer_refused
from server.routes import files, nodes, runs, socket, system, userdata
from server.routes import settings as preferences
from server.runs import Run
from server.security import Guard
from server.settings import ServerSettings
from server.state import ServerState
from server.workers import Dispatcher, WorkerOptions
from server.workers.roles import Teller

__all__ = ["create_app"]

_log = logging.getLogger(__name__)


def create_app(settings: ServerSettings, specs: Mapping[str, NodeSpec] | None = None, modules: tuple[str, ...] = ()) -> Starlette:
    """The server as an ASGI application; its lifespan starts and stops the workers.

    `specs` are the node types when they are not those of the installed packages, and `modules` are what the workers then load instead,
    without a device package. Raises Busy when another server works in the same home.
    """
    known = Catalogue.load() if specs is None else Catalogue(specs)
    for broken in known.broken:
        _log.warning("the node package %s cannot be read: %s", broken.name, broken.error)
    folders, metrics, logs = Folders(settings.home), Metrics(), Recent()
    journal = Journal(settings.journal, history=settings.history_limit)
    hub = Hub(
        journal,
        clients=settings.client_limit,
        limit=settings.outbox_limit,
        rate=settings.preview_rate,
        flags=features(settings.body_limit),
    )

    def teller(run: Run) -> Teller:
        return metrics.watch(run, Story(run))

    options = WorkerOptions(home=settings.home, cache_dir=settings.cache_dir, nodes=modules, plain=bool(modules))
    dispatcher = Dispatcher(journal, hub, teller, settings.works_on, options, requeue=settings.requeue)
    state = ServerState(settings, folders, known.specs, journal, dispatcher, hub, metrics, logs)

    def log_line(client: str, entry: Entry) -> None:
        hub.send(client, "", [Message("logs", {"entries": [entry]}, keep=False)])

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        logs.start(asyncio.get_running_loop(), log_line)
        try:
            await dispatcher.start()
            yield
        finally:
            await dispatcher.close(settings.grace)
            journal.close()
            logs.stop()

    app = Starlette(
        routes=_places(settings.base),
        lifespan=lifespan,
        middleware=[Middleware(Timed, metrics=metrics), Middleware(Guard, settings=settings)],
        exception_handlers={Refused: answer_refused},
    )
    app.state.server = state
    return app


def _places(base: str) -> list[BaseRoute]:
    """Everything below `base`: the API with and without `/api`, the WebSocket, and last the editor's pages."""

    def api() -> list[BaseRoute]:
        parts = (runs, nodes, files, userdata, preferences, system)
        return [route for part in parts for route in part.routes()]

    routes: list[BaseRoute] = [*socket.routes(), *api(), Mount("/api", routes=api()), *pages.routes(pages.front_end())]
    return routes if base == "/" else [Mount(base.rstrip("/"), routes=routes)]
