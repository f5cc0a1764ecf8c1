"""`latentgraph serve`: one asyncio process that answers, and the worker processes that compute."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from server.app import create_app
from server.logs import set_up
from server.security import check_listen
from server.settings import ServerSettings
from server.wire import GatheringProtocol

__all__ = ["configuration", "listen", "serve"]

_BACKLOG = 2048
_LEAVING = 3  # seconds that open connections get when the server stops


def serve(settings: ServerSettings) -> None:
    """Serve until Ctrl-C or SIGTERM; the running node is finished or parked.

    Raises ValueError when it would listen to the world without a token, OSError when the address is taken, Busy when another server works
    in the same home.
    """
    check_listen(settings)
    set_up(settings.log_level, as_json=settings.log_json)
    place = listen(settings.host, settings.port)
    with place:
        server = Announced(configuration(create_app(settings), settings), address(settings, place))
        server.run(sockets=[place])
    if not server.started:
        raise OSError("the server did not start; see above")


def configuration(app: ASGIApp, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        loop="asyncio",  # where uvloop is installed as well, since only this one is tested
        ws=GatheringProtocol,
        ws_max_size=settings.message_limit,
        ws_per_message_deflate=False,  # frames are small and many; compressing them costs more than it saves
        ws_ping_interval=30.0,
        ws_ping_timeout=120.0,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_LEAVING,
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises OSError that says what to do when it is taken or there is no such address."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise OSError(f"there is no address {host!r} to listen on: {error.strerror}") from error
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
    except OSError as error:
        made.close()
        hint = "another server has it; --port 0 takes a free one" if error.errno == errno.EADDRINUSE else error.strerror
        raise OSError(f"cannot listen on {host} port {port}: {hint}") from error
    return made


def address(settings: ServerSettings, place: socket.socket) -> str:
    """What to type into a browser."""
    host = settings.host if settings.host not in ("0.0.0.0", "::") else socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{place.getsockname()[1]}{settings.base}"


class Announced(uvicorn.Server):
    """A server that says where it is, once it answers, and ends well when it is asked to end."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self.address = address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            sys.stderr.write(f"latentgraph is at {self.address}  (Ctrl-C stops it)\n")
            sys.stderr.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops the server in good order, a second Ctrl-C at once; unlike uvicorn's, neither is raised again."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
