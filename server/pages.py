"""The visual editor: the files of the front end, as its package installed them."""

from __future__ import annotations

import html
import re
import sys
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

if TYPE_CHECKING:
    from server.state import ServerState

__all__ = ["front_end", "routes"]

PACKAGE = "comfyui_frontend_package"
_HASHED = re.compile(r".+-[A-Za-z0-9_-]{8}\.[a-z0-9.]+")  # a name that changes with the content
_TYPES = {  # some systems know others, and a browser runs no script of another type
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".png": "image/png",
    ".ico": "image/vnd.microsoft.icon",
    ".woff2": "font/woff2",
    ".woff": "font/woff",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
}
_NOT_INSTALLED = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>latentgraph</title>
<style>
  :root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }}
  body {{ max-width: 40rem; margin: 15vh auto; padding: 0 1rem }}
</style>
<h1>latentgraph</h1>
<p>The server runs, but the visual editor is not installed. It is a program of its own; this adds it:</p>
<pre><code>{python} -m pip install "latentgraph[editor]"</code></pre>
<p>Then start the server again. Programs can use the <a href="api/openapi.json">HTTP API</a> without it.</p>
</html>
"""


def front_end() -> Path | None:
    """The folder of the front end's files, None when its package is not installed."""
    spec = find_spec(PACKAGE)
    places = (spec.submodule_search_locations or ()) if spec else ()
    return next((static for place in places if ((static := Path(place) / "static") / "index.html").is_file()), None)


def routes(static: Path | None) -> list[BaseRoute]:
    """The page, its files, and the user's style sheet; without a prefix, after all other routes."""

    async def page(request: Request) -> Response:
        """The editor, or how to install it."""
        headers = {"Cache-Control": "no-store", "Content-Security-Policy": policy(request.headers.get("host", ""))}
        if static is None:
            return HTMLResponse(_NOT_INSTALLED.format(python=html.escape(sys.executable)), 503, headers)
        return HTMLResponse(await run_in_threadpool((static / "index.html").read_bytes), 200, headers)

    made: list[BaseRoute] = [Route("/", page), Route("/index.html", page), Route("/user.css", user_css)]
    if static is not None:
        made += [Route("/favicon.ico", icon), Mount("/", _Files(directory=static))]
    return made


async def icon(request: Request) -> Response:
    """Browsers ask for it beside what they show without a page, such as a picture."""
    return RedirectResponse(request.url.path.removesuffix("favicon.ico") + "assets/favicon.ico")


async def user_css(request: Request) -> Response:
    """The style sheet that the user added; empty when there is none."""
    server: ServerState = request.app.state.server
    path = server.settings.user / "user.css"
    text = await run_in_threadpool(lambda: path.read_bytes() if path.is_file() else b"")
    return Response(text, headers={"Cache-Control": "no-cache"}, media_type="text/css")


def policy(host: str) -> str:
    """The Content-Security-Policy of the editor's page: everything from here, nothing from outside. The front end
    needs inline scripts and `eval`; older browsers do not count WebSockets as `'self'`, hence the host by name.
    """
    sockets = f" ws://{host} wss://{host}" if re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII) else ""
    return "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' data: blob:",
            "font-src 'self' data:",
            f"connect-src 'self' data: blob:{sockets}",
            "worker-src 'self' blob:",
            "frame-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


class _Files(StaticFiles):
    """Files whose name holds a hash of their content are kept by the browser for good, others are asked for again."""

    def file_response(self, full_path: Any, *args: Any, **options: Any) -> Response:
        response = super().file_response(full_path, *args, **options)
        path = PurePath(full_path)
        if kind := _TYPES.get(path.suffix.lower()):
            response.headers["Content-Type"] = kind
        lasting = path.parent.name == "assets" and _HASHED.fullmatch(path.name)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if lasting else "no-cache"
        return response
