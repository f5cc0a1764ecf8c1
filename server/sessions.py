"""Who knows the token: bearer headers, the login cookie, and how often somebody may guess."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

__all__ = ["Attempts", "Key"]

_LASTS = 30 * 24 * 3600  # seconds that a login holds


class Key:
    """The token of a server, and the cookies that stand for it. Nothing is kept: a cookie proves itself until it
    expires or the token changes.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._token = _digest(token)
        self._sign = hashlib.sha256(b"latentgraph login\0" + token.encode("utf-8", "surrogatepass")).digest()
        self._clock = clock

    def fits(self, token: str) -> bool:
        """Whether it is the token; takes as long for a nearly right one as for any other."""
        return hmac.compare_digest(_digest(token), self._token)

    def bearer(self, authorization: str) -> bool:
        """Whether an Authorization header carries the token."""
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.fits(token.strip())

    def cookie(self) -> tuple[str, int]:
        """The value of a new login cookie, and the seconds that it lasts."""
        until = str(int(self._clock()) + _LASTS)
        return f"{until}.{self._signature(until)}", _LASTS

    def opens(self, cookie: str) -> bool:
        """Whether a cookie is one of ours and has not expired."""
        until, _, signature = cookie.partition(".")
        if not hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), self._signature(until).encode()):
            return False
        return int(until) > self._clock()

    def _signature(self, until: str) -> str:
        return hmac.digest(self._sign, until.encode("utf-8", "surrogatepass"), "sha256").hex()


class Attempts:
    """Wrong tokens by address: after `most` within `window` seconds an address has to wait, whatever it sends."""

    def __init__(self, most: int = 10, window: float = 60.0, addresses: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._window, self._addresses, self._clock = most, window, addresses, clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, address: str) -> int:
        """Whole seconds until the address may try again; 0: now."""
        times = self._failed.get(address)
        if times is None or len(times) < self._most:
            return 0
        return max(0, math.ceil(times[0] + self._window - self._clock()))

    def failed(self, address: str) -> None:
        """Count a wrong token. The table is bounded; the address that was quiet for longest is forgotten."""
        self._failed.setdefault(address, deque(maxlen=self._most)).append(self._clock())
        self._failed.move_to_end(address)
        if len(self._failed) > self._addresses:
            self._failed.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget what went wrong before."""
        self._failed.pop(address, None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
