"""The commands around a server: start one, and ask or steer one that runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from server.exits import DONE, FAILED
from server.settings import ClientSettings, ServerSettings

if TYPE_CHECKING:
    from server.transport import Http

__all__ = ["Pickles", "Token", "cancel", "given", "queue", "read_pickles", "serve", "status"]

Server = Annotated[str | None, Parameter(help="address of a running server; $LATENTGRAPH_SERVER or http://127.0.0.1:8188 when not given")]
Token = Annotated[str | None, Parameter(help="what the server asks for; better in $LATENTGRAPH_TOKEN, where other users do not see it")]

Pickles = Annotated[
    bool, Parameter(negative=(), help="also read pickled model files (.ckpt, .pt, .bin), as weights only; $LATENTGRAPH_ALLOW_PICKLE=1")
]


def serve(
    *,
    listen: Annotated[
        str | None, Parameter(help="the address to listen on; alone: every one. Needs a token unless it is the loopback")
    ] = None,
    port: Annotated[int | None, Parameter(help="8188 when not given; 0 takes a free one")] = None,
    token: Token = None,
    home: Annotated[
        Path | None, Parameter(help="where models/, input/, output/ and the queue are; the present folder when not given")
    ] = None,
    devices: Annotated[str | None, Parameter(help="one worker each, with commas between: cuda:0,cuda:1")] = None,
    base: Annotated[str | None, Parameter(help="the path that everything lies under, such as /studio/")] = None,
    host_name: Annotated[
        list[str] | None, Parameter(negative=(), help="a further name that the server is known by, such as that of a proxy. Repeatable.")
    ] = None,
    origin: Annotated[
        list[str] | None, Parameter(negative=(), help="a further web origin that may use the server: https://studio.example. Repeatable.")
    ] = None,
    cache_dir: Annotated[Path | None, Parameter(help="keep results on disk, for the next start")] = None,
    requeue: Annotated[bool | None, Parameter(negative=(), help="run again what a crash interrupted")] = None,
    log_json: Annotated[bool | None, Parameter(negative=(), help="log one JSON object a line")] = None,
    log_level: Annotated[str | None, Parameter(help="debug, info, warning, error")] = None,
    allow_pickle: Pickles = False,
) -> int:
    """Start the server with the visual editor. Everything can also be set in the environment: LATENTGRAPH_PORT, LATENTGRAPH_TOKEN, …"""
    from server.serve import serve as start

    read_pickles(allow_pickle)
    options = given(host=listen, port=port, token=token, devices=devices, base=base, cache_dir=cache_dir, requeue=requeue)
    options |= given(log_json=log_json, log_level=log_level, hosts=host_name, origins=origin, home=home and home.absolute())
    start(ServerSettings(**options))
    return DONE


def read_pickles(allowed: bool) -> None:
    """Let this process and its workers read pickled model files."""
    if allowed:
        os.environ["LATENTGRAPH_ALLOW_PICKLE"] = "1"


def status(*, server: Server = None, token: Token = None) -> int:
    """Show what a running server is, who holds its memory and how long its queue is."""
    from server.remote import status as show

    return _ask(server, token, lambda http: show(http, Console()))


def queue(*, server: Server = None, token: Token = None) -> int:
    """List what runs and waits on a running server."""
    from server.remote import queue as show

    return _ask(server, token, lambda http: show(http, Console()))


def cancel(
    *ids: str, all_: Annotated[bool, Parameter(name="--all", negative=())] = False, server: Server = None, token: Token = None
) -> int:
    """Cancel runs on a running server.

    Parameters
    ----------
    ids
        The ids of the runs, as `latentgraph queue` lists them.
    all_
        Everything that runs or waits.
    """
    from server.remote import cancel as stop
    from server.remote import waiting

    if bool(ids) == all_:
        raise ValueError("give the ids of runs, or --all")

    async def each(http: Http) -> bool:
        return await stop(http, await waiting(http) if all_ else ids, Console())

    return _ask(server, token, each)


def _ask(server: str | None, token: str | None, question: Callable[[Http], Awaitable[bool | None]]) -> int:
    from server.transport import Http

    settings = ClientSettings(**given(server=server, token=token))

    async def ask() -> bool | None:
        return await question(Http(settings.server, settings.secret))

    return FAILED if asyncio.run(ask()) is False else DONE


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that the others come from the environment."""
    return {name: value for name, value in options.items() if value is not None}
