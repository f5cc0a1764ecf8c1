"""Who is connected, and who is told what: run events go to the client that queued the run, the length of the queue to everybody."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.journal import Journal
from server.outbox import FLAGS, STATUS, WELCOME, Frame, Outbox
from server.protocol.messages import Message, Preview, encode, framed

__all__ = ["Hub", "features"]

_REMEMBERED = 4096  # clients that are not connected
_STATUS = 0.1  # seconds between two broadcasts of the queue's length
_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})
_log = logging.getLogger(__name__)


def features(max_upload: int) -> dict[str, Any]:
    """What the server can do, as `feature_flags` and `GET /features` say it; `max_upload` in bytes."""
    return {"supports_preview_metadata": True, "max_upload_size": max_upload}


@dataclass(slots=True)
class Seat:
    """A client by its id, connected or not: what it was sent, and how its runs stand."""

    handed: int
    outbox: Outbox | None = None
    live: dict[str, dict[str, Message]] = field(default_factory=dict)  # run -> the newest progress_state and executing

    def note(self, run: str, message: Message) -> None:
        """Remember what a client that comes back has to know at once."""
        if message.type in _ENDS or (message.type == "executing" and message.data.get("node") is None):
            self.live.pop(run, None)
            if self.outbox is not None:
                self.outbox.end(run)
        elif message.type in ("progress_state", "executing"):
            self.live.setdefault(run, {})[message.type] = message

    def now(self) -> list[Frame]:
        """The passing state of its runs."""
        frames = []
        for run, told in self.live.items():
            for type in ("progress_state", "executing"):
                if type in told:
                    frames.append(Frame(framed(type, encode(told[type].data)), key=f"{type} {run}"))
        return frames


class Hub:
    """Hands messages to the sockets of their clients without ever waiting for one; used from the event loop only.

    What is to be kept is in the journal before a socket has it. `limit` bounds the bytes that wait for one socket, `rate` its previews a
    second, `clients` the sockets that are open at a time. Make it before the journal settles what a crash interrupted, so that clients who
    come back are told of it.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        clients: int = 1000,
        limit: int = 1 << 20,
        rate: float = 8.0,
        flags: Mapping[str, Any] | None = None,
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._journal, self._limit, self._rate, self._clients = journal, limit, rate, clients
        self._began = journal.last_event
        self._flags = encode(dict(features(0) if flags is None else flags))
        self._later = later or (lambda seconds, call: asyncio.get_running_loop().call_later(seconds, call))
        self._seats: OrderedDict[str, Seat] = OrderedDict()
        self._remaining = sum(journal.counts())
        self._version = 0  # of the queue's length
        self._knows: dict[Outbox, int] = {}  # the version that a socket was told
        self._pausing = False
        self._sockets = 0
        self._dropped = 0

    # what the dispatcher calls

    def send(self, client: str, run_id: str, messages: Sequence[Message | Preview]) -> None:
        """Journal what is to be kept, and pass everything to the client's socket if there is one. Never waits, never raises."""
        texts = [encode(message.data) if isinstance(message, Message) and message.keep else "" for message in messages]
        kept = [i for i, message in enumerate(messages) if isinstance(message, Message) and message.keep]
        numbers: list[int | None] = [None] * len(messages)
        try:
            rows = [(client, run_id, _type(messages[i]), texts[i]) for i in kept]
            for i, number in zip(kept, self._journal.record(rows), strict=True):
                numbers[i] = number
        except sqlite3.Error:  # the disk is full: who is connected shall know at least
            _log.exception("events of run %s cannot be kept", run_id)
        if not client:
            return
        seat = self._seat(client, numbers[kept[0]] if kept else None)
        outbox = seat.outbox
        if outbox is not None:
            self._tell_status(outbox)
        for message, text, seq in zip(messages, texts, numbers, strict=True):
            if isinstance(message, Preview):
                if outbox is not None:
                    outbox.show(message)
                continue
            seat.note(run_id, message)
            if outbox is None:
                continue
            if message.keep:
                outbox.say(framed(message.type, text, seq), seq)
            else:
                outbox.say(framed(message.type, encode(message.data)), key=f"{message.type} {run_id}")

    def queue_changed(self, remaining: int) -> None:
        """Tell everybody how many runs wait or run; of a burst the first and the last change. Never waits, never raises."""
        self._remaining = remaining
        self._version += 1
        if not self._pausing:
            self._broadcast()

    # what a socket calls

    @property
    def full(self) -> bool:
        """Whether there are as many sockets as there may be."""
        return self._sockets >= self._clients

    @property
    def sockets(self) -> int:
        """How many sockets are open."""
        return self._sockets

    @property
    def dropped(self) -> int:
        """Passing messages and previews that gave way to newer ones because their socket was slow."""
        return self._dropped + sum(outbox.dropped for outbox in self._knows)

    @property
    def waiting(self) -> int:
        """Bytes that wait for sockets."""
        return sum(outbox.waiting for outbox in self._knows)

    def open(self, client: str, since: int | None = None) -> Outbox:
        """A socket of this client takes the place of an older one. It is told what the older one was not, or all events after `since`."""
        seat = self._seats.get(client)
        if seat is None:
            seat = self._seats[client] = Seat(self._missed(client))
        elif (old := seat.outbox) is not None:
            seat.handed = old.handed
            old.silence()
            self._knows.pop(old, None)
        outbox = Outbox(
            lambda after, count: self._journal.events(client, after, count),
            seat.now,
            since=seat.handed if since is None else since,
            limit=self._limit,
            rate=self._rate,
        )
        seat.outbox = outbox
        self._sockets += 1
        self._knows[outbox] = self._version
        outbox.say(framed("status", self._status(sid=client)), key=WELCOME)
        return outbox

    def close(self, client: str, outbox: Outbox) -> None:
        """A socket is gone; one that took its place stays."""
        self._sockets -= 1
        self._dropped += outbox.dropped
        self._knows.pop(outbox, None)
        seat = self._seats.get(client)
        if seat is not None and seat.outbox is outbox:
            seat.outbox, seat.handed = None, outbox.handed
            self._seats.move_to_end(client)
            self._forget()

    def heard(self, outbox: Outbox, text: str) -> None:
        """A client said something: its feature flags are answered, everything else is ignored."""
        try:
            said = json.loads(text)
        except (ValueError, RecursionError):
            return
        if not isinstance(said, dict) or said.get("type") != "feature_flags" or not isinstance(said.get("data"), dict):
            return
        outbox.metadata = said["data"].get("supports_preview_metadata") is True
        outbox.say(framed("feature_flags", self._flags), key=FLAGS)

    def _seat(self, client: str, first: int | None) -> Seat:
        seat = self._seats.get(client)
        if seat is None:
            handed = self._journal.last_event if first is None else first - 1
            seat = self._seats[client] = Seat(handed)
            self._forget()
        return seat

    def _forget(self) -> None:
        excess = len(self._seats) - _REMEMBERED - self._sockets
        for client in [client for client, seat in self._seats.items() if seat.outbox is None][: max(excess, 0)]:
            del self._seats[client]

    def _missed(self, client: str) -> int:
        """Where to begin for a client that this server has not met: before the run that ended by the server's own end, if there was one."""
        after = self._journal.events(client, self._began, 1)
        if not after:
            return self._journal.last_event
        run = json.loads(after[0][2]).get("prompt_id")
        for seq, type, data in self._journal.events(client, 0):
            if type == "execution_start" and json.loads(data).get("prompt_id") == run:
                return seq - 1
        return after[0][0] - 1

    def _status(self, sid: str | None = None) -> str:
        status: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": self._remaining}}}
        return encode(status if sid is None else {**status, "sid": sid})

    def _tell_status(self, outbox: Outbox) -> None:
        if self._knows.get(outbox, self._version) != self._version:
            self._knows[outbox] = self._version
            outbox.say(framed("status", self._status()), key=STATUS)

    def _broadcast(self) -> None:
        text = framed("status", self._status())
        told = self._version
        for outbox, known in self._knows.items():
            if known != told:
                self._knows[outbox] = told
                outbox.say(text, key=STATUS)
        self._pausing = True

        def again() -> None:
            self._pausing = False
            if self._version != told:
                self._broadcast()

        self._later(_STATUS, again)


def _type(message: Message | Preview) -> str:
    return message.type if isinstance(message, Message) else ""
