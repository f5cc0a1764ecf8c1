"""Whether a request comes from a page of ours or from no page at all, judged by its headers alone.

A browser tells where a request comes from (Origin, Sec-Fetch-*; Fetch Metadata, W3C) and which name it believes the server has (Host). A
foreign page can send requests to a server on this machine, and by DNS rebinding even under a name of its own; programs send neither header.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers

__all__ = ["Doors", "own_hosts"]

_SAFE = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.IGNORECASE)
_PORTS = {"http": ":80", "https": ":443", "ws": ":80", "wss": ":443"}


@dataclass(frozen=True, slots=True)
class Doors:
    """`hosts` are the names that the server goes by, `origins` further web origins that may change things.

    Loopback addresses are always its own; other addresses when it listens on them (`addresses`), since a page cannot
    take the name of an address.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    addresses: bool = False

    def host_objection(self, headers: Headers) -> str | None:
        """Why the Host header is not one of ours, or None."""
        given = headers.getlist("host")
        match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if match is None:
            return "the request needs one Host header"
        name = match[1].strip("[]").lower()
        if name in self.hosts or _is_own_address(name, self.addresses):
            return None
        return f"this server does not go by the name {name!r}; add it to `hosts` if it should"

    def origin_objection(self, method: str, headers: Headers) -> str | None:
        """Why a request from a foreign page is refused, or None. `method` is WEBSOCKET for a WebSocket."""
        origins, site = headers.getlist("origin"), headers.get("sec-fetch-site")
        if any(origin.lower() in self.origins for origin in origins[:1]):
            return None
        if method in _SAFE:
            if site == "cross-site" and not _is_navigation(headers):
                return "pages of other sites cannot read from this server"
            return None
        if any(not _same(origin, headers.get("host", "")) for origin in origins):
            return f"pages of {origins[0][:100]!r} cannot change anything here; add it to `origins` if it should"
        if site in ("cross-site", "same-site"):
            return "pages of other sites cannot change anything here"
        return None


def own_hosts(names: Iterable[str]) -> frozenset[str]:
    """Names in the form in which they are compared."""
    return frozenset(name.strip("[]").lower() for name in names)


def _is_own_address(name: str, any_address: bool) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost"
    return any_address or address.is_loopback


def _is_navigation(headers: Headers) -> bool:
    """A person followed a link to here; the answer fills a tab and the other page cannot see it."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    usual = _PORTS.get(parts.scheme)
    if usual is None:  # `null`, files, extensions of the browser
        return False
    return bool(parts.netloc) and parts.netloc.lower().removesuffix(usual) == host.lower().removesuffix(usual)
