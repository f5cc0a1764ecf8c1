"""A client of a running server: submit a workflow, follow it over the WebSocket through any number of reconnects, fetch what it made."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from graph_engine import Problem, WorkflowError
from server.transport import Http, Refused

__all__ = ["ENDS", "Client", "problems_of"]

ENDS = ("execution_success", "execution_error", "execution_interrupted")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_RETOLD = 1.0  # seconds within which a server that replays begins to


class Client:
    """One WebSocket client of the server at `url`; `async with` it. Reconnects wait up to `patience` seconds for the server to come back.

    Raises ConnectionError when the server is not there, Refused when it says no.
    """

    def __init__(self, url: str, *, token: str | None = None, client_id: str | None = None, patience: float = 60.0) -> None:
        self.http = Http(url, token)
        self.id = client_id or uuid.uuid4().hex
        self.patience = patience
        self.seq: int | None = None  # of the last message that was kept by the server
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def submit(
        self,
        document: Mapping[str, Any],
        *,
        extra: Mapping[str, Any] | None = None,
        front: bool = False,
        number: float | None = None,
        targets: Collection[str] | None = None,
    ) -> str:
        """Queue a workflow in API JSON; the id of its run. Raises WorkflowError with every problem when it is not valid."""
        body: dict[str, Any] = {"prompt": dict(document), "client_id": self.id, "extra_data": dict(extra or {}), "front": front}
        body |= {} if number is None else {"number": number}
        body |= {} if targets is None else {"partial_execution_targets": list(targets)}
        try:
            answer = await self.http.post("/prompt", body)
        except Refused as refused:
            if refused.status == 400 and (found := problems_of(refused.answer, document)):
                raise WorkflowError(found) from refused
            raise
        return str(answer["prompt_id"])

    async def follow(self, run: str) -> AsyncIterator[dict[str, Any] | bytes]:
        """The messages of one run, as {"type", "data"}, and its previews, as they come on the wire, until it has ended.

        A lost connection is made anew and nothing is missed. Raises ConnectionError when the server does not come back or has no such run.
        """
        ended: str | None = None
        finished: list[tuple[str, dict[str, Any]]] | None = None
        while True:
            try:
                message = await asyncio.wait_for(self._receive(), None if finished is None else _RETOLD)
            except TimeoutError:  # it finished while nobody was connected, and is not told again
                for kind, data in finished or ():
                    if kind in ENDS and ended is None:
                        yield {"type": kind, "data": data}
                return
            except (ConnectionClosed, OSError):
                if ended:
                    return
                await self._open()
                finished = await self._finished(run)
                continue
            if isinstance(message, bytes):
                yield message
            elif message["data"].get("prompt_id") == run:
                ended = message["type"] if message["type"] in ENDS else ended
                yield message
                if message["type"] == "executing" and message["data"].get("node") is None:
                    return

    async def cancel(self, run: str) -> bool:
        """Take a run out of the queue or stop it; whether it was there."""
        return bool((await self.http.post(f"/jobs/{run}/cancel"))["cancelled"])

    async def _open(self) -> None:
        """Connect, or connect again: then the server sends what was missed."""
        query = {"clientId": self.id} | ({} if self.seq is None else {"since": str(self.seq)})
        pause, waited, first = _FIRST_PAUSE, 0.0, self._socket is None
        while True:
            try:
                self._socket = await connect(
                    self.http.websocket(**query), additional_headers=self.http.headers, max_size=None, open_timeout=20, compression=None
                )
                return
            except InvalidHandshake as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if first or status in (401, 403):
                    raise ConnectionError(f"{self.http.url} does not open a WebSocket: {error}") from error
            except (OSError, TimeoutError) as error:
                if first or waited >= self.patience:
                    raise ConnectionError(f"no answer from {self.http.url}: {error or type(error).__name__}") from error
            await asyncio.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _receive(self) -> dict[str, Any] | bytes:
        """The next message with data, or preview."""
        assert self._socket is not None, "a client is used inside `async with`"
        while True:
            raw = await self._socket.recv()
            if isinstance(raw, bytes):
                return raw
            message = json.loads(raw)
            if isinstance(seq := message.get("seq"), int):
                self.seq = seq if self.seq is None else max(self.seq, seq)
            if isinstance(message.get("data"), dict):
                return dict(message)

    async def _finished(self, run: str) -> list[tuple[str, dict[str, Any]]] | None:
        """What the history tells of a run that has finished; None while it waits or runs."""
        history = await self.http.get(f"/history/{run}")
        if run in history:
            return [(kind, data) for kind, data in history[run]["status"]["messages"]]
        queue = await self.http.get("/queue")
        if any(row[1] == run for row in (*queue["queue_running"], *queue["queue_pending"])):
            return None
        history = await self.http.get(f"/history/{run}")  # it may have finished between the two questions
        if run not in history:
            raise ConnectionError(f"{self.http.url} has no run {run} any more")
        return [(kind, data) for kind, data in history[run]["status"]["messages"]]


def problems_of(answer: Any, document: Mapping[str, Any]) -> list[Problem]:
    """What a refusal of POST /prompt says, as the problems that validation without a server finds."""
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        return []
    found = []
    for id, node in (answer.get("node_errors") or {}).items():
        entry = document.get(id)
        title = (entry.get("_meta") or {}).get("title") if isinstance(entry, dict) else None
        for each in node.get("errors", ()):
            info = each.get("extra_info") or {}
            field = info.get("input_name")
            details = str(each.get("details") or "")
            message = str(each.get("message", "")) + (f": {details}" if details and details != field else "")
            found.append(
                Problem(
                    code=str(each.get("type", "")),
                    message=message,
                    node=id,
                    title=title,
                    class_type=node.get("class_type"),
                    field=field,
                    got=info.get("received_value"),
                )
            )
    if not found:
        info = error.get("extra_info") or {}
        message = ": ".join(str(error[key]) for key in ("message", "details") if error.get(key))
        found.append(Problem(code=str(error.get("type", "")), message=message, node=info.get("node_id"), class_type=info.get("class_type")))
    return found
