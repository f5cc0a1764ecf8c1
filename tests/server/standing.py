"""The routes of runs and the socket over a real journal and hub, with a dispatcher that the test drives by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from told_nodes import REGISTRY, SPECS, engine, events_of

from graph_engine import Folders, Problem
from graph_engine.editor.definitions import definitions
from graph_engine.validate import validate
from server.hub import Hub, features
from server.journal import Journal
from server.protocol.messages import Message
from server.protocol.story import Story
from server.refusal import Refused, answer_refused
from server.routes import runs, socket
from server.runs import NewRun, Run
from server.settings import ServerSettings


class ByHand:
    """Runs go when the test says so, in this process."""

    def __init__(self, journal: Journal, hub: Hub) -> None:
        self.journal, self.hub = journal, hub
        self.interrupted: list[str | None] = []
        self.freed: list[tuple[bool, bool]] = []
        self.asleep = False

    def submit(self, new: NewRun) -> Run:
        run = self.journal.submit(new)
        self.hub.queue_changed(sum(self.journal.counts()))
        return run

    async def check(self, document: Mapping[str, Any], targets: Collection[str] | None) -> list[Problem] | None:
        return None if self.asleep else validate(document, SPECS, wanted=targets, registry=REGISTRY)

    def cancel(self, id: str) -> bool:
        return bool(self.journal.remove_pending([id])) or self.interrupt(id)

    def interrupt(self, id: str | None) -> bool:
        self.interrupted.append(id)
        return any(id in (None, run.id) for run in self.journal.running())

    def free(self, unload_models: bool, free_memory: bool) -> None:
        self.freed.append((unload_models, free_memory))

    def begin(self) -> Run:
        run = self.journal.next_pending()
        assert run is not None
        return self.journal.start(run.id, "cpu")

    def step(self) -> Run:
        """Run what is next, from beginning to end."""
        run = self.begin()
        story = Story(run)
        events = events_of(engine(), run.document, wanted=run.targets)
        for event in events:
            self.hub.send(run.client, run.id, story.tell(event))
        done = {"success": "success", "error": "error", "cancelled": "interrupted"}[events[-1].status]  # type: ignore[union-attr]
        self.journal.finish(run.id, done, story.outputs, story.meta, story.messages, story.error)  # type: ignore[arg-type]
        self.hub.queue_changed(sum(self.journal.counts()))
        self.hub.send(run.client, run.id, [Message("executing", {"node": None, "prompt_id": run.id})])
        return run


class Standing:
    def __init__(self, home: Any, **settings: Any) -> None:
        self.settings = ServerSettings(home=home, **settings)
        self.journal = Journal(None)
        self.hub = Hub(
            self.journal,
            clients=self.settings.client_limit,
            limit=self.settings.outbox_limit,
            rate=self.settings.preview_rate,
            flags=features(self.settings.body_limit),
            later=lambda seconds, call: None,
        )
        self.dispatcher = ByHand(self.journal, self.hub)
        self.folders = Folders(home)
        state = SimpleNamespace(
            settings=self.settings,
            folders=self.folders,
            specs=SPECS,
            journal=self.journal,
            dispatcher=self.dispatcher,
            hub=self.hub,
            definitions=lambda: definitions(SPECS, self.folders),
        )
        app = Starlette(
            routes=[*socket.routes(), *runs.routes(), Mount("/api", routes=runs.routes())],
            exception_handlers={Refused: answer_refused},
        )
        app.state.server = state
        self.client = TestClient(app)

    def post(self, path: str, content: Any = b"") -> Any:
        import json

        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.client.post(path, content=data, headers={"Content-Type": "text/plain;charset=UTF-8"})

    def get(self, path: str) -> Any:
        return self.client.get(path).json()

    def submit(self, document: dict[str, Any], **fields: Any) -> str:
        answer = self.post("/prompt", {"prompt": document, **fields})
        assert answer.status_code == 200, answer.text
        assert answer.json()["node_errors"] == {}
        return str(answer.json()["prompt_id"])
