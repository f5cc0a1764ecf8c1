"""What a worker has to say, sent in few large pieces: the server does one transaction for each."""

from __future__ import annotations

import socket
import threading
import time

__all__ = ["Outbox"]

_DELAY = 0.002  # seconds that a frame may wait for others
_QUIET = 25  # delays without a frame after which the thread sleeps
_LARGE = 1 << 18  # bytes that do not wait


class Outbox:
    """Frames go out in the order of `put`, from any thread. When the server does not read, `put` waits."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: list[bytes] = []
        self._size = 0
        self._sending = threading.Lock()
        self._adding = threading.Lock()
        self._some = threading.Event()
        threading.Thread(target=self._work, name="outbox", daemon=True).start()

    def put(self, frame: bytes, *, now: bool = False) -> None:
        """Send a frame soon, with `now` at once with all before it."""
        with self._adding:
            self._waiting.append(frame)
            self._size += len(frame)
            large = self._size >= _LARGE
        if now or large:
            self._flush()
        elif not self._some.is_set():
            self._some.set()

    def _flush(self) -> None:
        with self._sending:
            with self._adding:
                frames, self._waiting, self._size = self._waiting, [], 0
            if frames:
                try:
                    self._connection.sendall(b"".join(frames))
                except OSError:
                    return  # the server is gone, which the reader notices and ends the process

    def _work(self) -> None:
        while True:
            self._some.wait()
            quiet = 0
            while quiet < _QUIET:  # staying up for a while costs less than being woken for every run
                time.sleep(_DELAY)
                quiet = 0 if self._waiting else quiet + 1
                self._flush()
            self._some.clear()
            self._flush()
