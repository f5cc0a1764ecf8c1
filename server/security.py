"""What every request passes before any route sees it: names, origins, the token, the size of its body."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.login import login_page
from server.origins import Doors, own_hosts
from server.refusal import Refused
from server.sessions import Attempts, Key
from server.settings import ServerSettings

__all__ = ["Guard", "check_listen"]

_FORM_BYTES = 8 << 10
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # not `no-referrer`, with which browsers call our own login form's origin `null`
    "X-Frame-Options": "SAMEORIGIN",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def check_listen(settings: ServerSettings) -> None:
    """Raises ValueError when the server would listen to other machines without a token."""
    if not settings.is_loopback and settings.token is None:
        raise ValueError(
            f"listening on {settings.host} lets other machines in, so it needs a token: set LATENTGRAPH_TOKEN or --token, "
            "for instance to what `python -c 'import secrets; print(secrets.token_urlsafe())'` prints"
        )


class Guard:
    """ASGI middleware around the whole application. Refuses foreign Host names (403), foreign pages (403), whoever does not
    know the token (401; 429 after too many wrong ones), and bodies above the limit (413), also when they come in chunks.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        origins = frozenset(origin.lower().rstrip("/") for origin in settings.origins)
        own = [settings.host, *settings.hosts, *(() if settings.is_loopback else (socket.gethostname(),))]
        self._doors = Doors(own_hosts(own), origins, addresses=not settings.is_loopback)
        self._app = _with_cors(app, origins) if origins else app
        self._key = Key(settings.token.get_secret_value()) if settings.token is not None else None
        self._attempts = Attempts()
        self._limit = settings.body_limit
        self._base = settings.base
        self._cookie = f"latentgraph_{settings.port}"  # browsers do not keep the cookies of two ports apart

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        send = _with_headers(send)
        refusal = await self._refusal(scope, receive)
        if refusal is None:
            await self._app(scope, _limited(receive, self._limit) if scope["type"] == "http" else receive, send)
        elif scope["type"] == "http":
            await refusal(scope, receive, send)
        else:
            await _deny(receive, send)

    async def _refusal(self, scope: Scope, receive: Receive) -> Response | None:
        headers = Headers(scope=scope)
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        if why := self._doors.host_objection(headers) or self._doors.origin_objection(method, headers):
            return JSONResponse({"error": why, "message": why}, 403)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._limit:
            return JSONResponse({"error": f"a body holds at most {self._limit} bytes"}, 413, {"Connection": "close"})
        if self._key is None:
            return None
        if scope["path"] == f"{self._base}login" and method in ("GET", "HEAD"):
            return login_page(scope["path"], 200)
        if scope["path"] == f"{self._base}login" and method == "POST":
            return await self._login(Request(scope, receive), self._key)
        return self._stranger(HTTPConnection(scope), method, self._key)

    def _stranger(self, request: HTTPConnection, method: str, key: Key) -> Response | None:
        """The refusal of whoever does not know the token; None for whoever does."""
        if key.opens(request.cookies.get(self._cookie, "")):
            return None
        if method == "OPTIONS" and "access-control-request-method" in request.headers:
            return None  # a browser asks before it sends the token; the answer says nothing of ours
        address, authorization = _address(request), request.headers.get("authorization")
        if wait := self._attempts.wait(address):
            return _later(wait)
        if authorization is not None and key.bearer(authorization):
            self._attempts.succeeded(address)
            return None
        if authorization is not None:
            self._attempts.failed(address)
        if method == "GET" and "text/html" in request.headers.get("accept", ""):
            return login_page(f"{self._base}login", 401)
        why = "this server needs its token: `Authorization: Bearer …`, or the login page"
        return JSONResponse({"error": why, "message": why}, 401, {"WWW-Authenticate": "Bearer"})

    async def _login(self, request: Request, key: Key) -> Response:
        address, action = _address(request), f"{self._base}login"
        if wait := self._attempts.wait(address):
            return _later(wait)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _FORM_BYTES:
                return JSONResponse({"error": "a login takes a token only"}, 413)
        token = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).get("token", [""])[0]
        if not key.fits(token.strip()):
            self._attempts.failed(address)
            return login_page(action, 401, "That is not the token.")
        self._attempts.succeeded(address)
        value, lasts = key.cookie()
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        answer = RedirectResponse(self._base, 303)
        # `lax`, so that a link from elsewhere finds the person logged in; what such a link can do is only to read
        answer.set_cookie(self._cookie, value, max_age=lasts, path=self._base, secure=secure, httponly=True, samesite="lax")
        return answer


def _with_cors(app: ASGIApp, origins: frozenset[str]) -> ASGIApp:
    return CORSMiddleware(app, allow_origins=sorted(origins), allow_methods=["*"], allow_headers=["*"], allow_credentials=True)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def receiving() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:  # a body without a length, sent in chunks
            raise Refused(413, f"a body holds at most {limit} bytes", {"Connection": "close"})
        return message

    return receiving


async def _deny(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket: 403. An answer with a body would be an error in uvicorn's log, which any page could then fill."""
    await receive()  # the request to connect
    await send({"type": "websocket.close", "code": 1008, "reason": "refused"})


def _later(wait: int) -> Response:
    why = f"too many wrong tokens; try again in {wait} s"
    return JSONResponse({"error": why, "message": why}, 429, {"Retry-After": str(wait)})


def _address(request: HTTPConnection) -> str:
    """The network that somebody guesses from: one IPv4 address, or the /64 that an IPv6 host chooses addresses from."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)
