"""What waits to be sent to one socket: bounded, in order, and filled up from the journal when its reader is too slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.protocol.messages import Preview, framed

__all__ = ["FLAGS", "STATUS", "WELCOME", "Frame", "Outbox"]

_EASY = 64 << 10  # bytes that may wait before passing messages are thinned out
_PAGE = 256  # events read from the journal at a time
_OVERHEAD = 100  # bytes that a waiting message takes besides its text
_PREVIEWS = 16  # nodes whose newest preview waits

STATUS, WELCOME, FLAGS = "status", "welcome", "feature_flags"  # keys of messages that no journal holds
_ALWAYS = (WELCOME, STATUS, FLAGS)

Events = Callable[[int, int], list[tuple[int, str, str]]]  # (since, limit) -> number, type, JSON


@dataclass(slots=True)
class Frame:
    """One message to be sent. One with a `key` gives way to a newer one with the same key, one with a number is in the journal."""

    text: str
    seq: int | None = None
    key: str | None = None
    stale: bool = False


class Outbox:
    """Messages for one socket, taken out one by one.

    While `replay` is a number, the events that the journal holds after it go first; what comes meanwhile is in the journal, too. An outbox
    that would hold more than `limit` bytes drops everything and goes on from the journal, so a slow reader costs no memory and misses no
    change of state. `events` reads the journal, `resumed` gives the passing state to tell when that is done.
    """

    def __init__(self, events: Events, resumed: Callable[[], list[Frame]], *, since: int, limit: int, rate: float) -> None:
        self._events, self._resumed = events, resumed
        self._limit, self._pause = limit, 1 / rate
        self._frames: deque[Frame] = deque()
        self._keyed: dict[str, Frame] = {}
        self._previews: dict[tuple[str, str], Preview] = {}
        self._due = 0.0  # when the next preview may go
        self._bytes = 0
        self.replay: int | None = since
        self.handed = since  # the newest event that was sent
        self._taken = since  # or is being sent
        self._silent = False
        self.metadata = False  # the client reads frame 4
        self.dropped = 0  # messages and previews that gave way to newer ones
        self.wake: Callable[[], None] = lambda: None

    @property
    def waiting(self) -> int:
        """The bytes that are held, roughly."""
        return self._bytes + sum(len(preview.data) for preview in self._previews.values())

    def say(self, text: str, seq: int | None = None, key: str | None = None) -> None:
        """Add a message. During a replay most are not taken, for they are told by the journal, or at its end."""
        if self._silent or (self.replay is not None and key not in _ALWAYS):
            return
        frame = Frame(text, seq, key)
        if key is not None:
            older = self._keyed.get(key)
            if older is not None and key == STATUS and self._frames[-1] is older:
                self._spoil(self._frames.pop())
                self._bytes -= _OVERHEAD
            elif older is not None and self._bytes > _EASY:
                self._spoil(older)
            self._keyed[key] = frame
        self._frames.append(frame)
        self._bytes += len(text) + _OVERHEAD
        if self._bytes > self._limit:
            self._overflow()
        self.wake()

    def show(self, preview: Preview) -> None:
        """Add a preview in the place of an older one of the same node."""
        if self._silent or self.replay is not None:
            return
        place = preview.run, preview.node
        if self._previews.pop(place, None) is not None or len(self._previews) >= _PREVIEWS:
            self.dropped += 1
        if len(self._previews) >= _PREVIEWS:
            del self._previews[next(iter(self._previews))]
        self._previews[place] = preview
        self.wake()

    def end(self, run: str) -> None:
        """Forget the previews of a run that is over."""
        for place in [place for place in self._previews if place[0] == run]:
            del self._previews[place]

    def silence(self) -> None:
        """Another socket has taken the client over: nothing more is told here."""
        self._silent, self.replay, self._bytes = True, None, 0
        self._frames.clear()
        self._keyed.clear()
        self._previews.clear()

    def take(self, now: float) -> Frame | Preview | None:
        """What is to be sent next; None when there is nothing, or nothing before `due`."""
        if not self._frames and self.replay is not None:
            self._read()
        if self.replay is None or self._frames:
            while self._frames:
                frame = self._frames.popleft()
                self._bytes -= len(frame.text) + _OVERHEAD
                if frame.key is not None and self._keyed.get(frame.key) is frame:
                    del self._keyed[frame.key]
                if frame.seq is not None:
                    self._taken = max(self._taken, frame.seq)
                if not frame.stale:
                    return frame
        if self._previews and now >= self._due:
            self._due = now + self._pause
            return self._previews.pop(next(iter(self._previews)))
        return None

    def sent(self, frame: Frame) -> None:
        """A message has gone out."""
        if frame.seq is not None:
            self.handed = max(self.handed, frame.seq)

    @property
    def due(self) -> float | None:
        """When a waiting preview may go; None when none waits."""
        return self._due if self._previews else None

    def _read(self) -> None:
        assert self.replay is not None
        for seq, type, data in self._events(self.replay, _PAGE):
            self.replay = seq
            text = framed(type, data, seq)
            self._frames.append(Frame(text, seq))
            self._bytes += len(text) + _OVERHEAD
        if not self._frames:
            self.replay = None
            for frame in self._resumed():
                self.say(frame.text, frame.seq, frame.key)

    def _spoil(self, frame: Frame) -> None:
        self._bytes -= len(frame.text)
        frame.text, frame.stale = "", True
        self.dropped += 1

    def _overflow(self) -> None:
        always = [frame for key, frame in self._keyed.items() if key in _ALWAYS]
        self.dropped += sum(frame.seq is None and not frame.stale for frame in self._frames) - len(always)
        self._frames = deque(always)
        self._keyed = {frame.key: frame for frame in always if frame.key is not None}
        self._bytes = sum(len(frame.text) + _OVERHEAD for frame in always)
        self.replay = self._taken
