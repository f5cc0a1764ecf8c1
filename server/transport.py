"""HTTP to a running server with the standard library: JSON both ways, uploads, downloads."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from server.confine import inside
from server.writing import place, staged

__all__ = ["Http", "Refused"]

_CHUNK = 1 << 20


class Refused(ConnectionError):
    """The server answered with an error; `status` is its HTTP status and `answer` the body, parsed when it is JSON."""

    def __init__(self, status: int, answer: Any, request: str) -> None:
        self.status, self.answer = status, answer
        super().__init__(f"{request} was answered {status}: {_words(answer)}")


class Http:
    """One server at `url`, such as http://127.0.0.1:8188 or https://studio.example/base. Raises ConnectionError when it is not there."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a server, such as http://127.0.0.1:8188")
        self.secure, self.place, self.base = parts.scheme == "https", parts.netloc.rpartition("@")[2], parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{self.place}{self.base}"
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.timeout = timeout

    def websocket(self, **query: str) -> str:
        """The address of the WebSocket."""
        return f"{'wss' if self.secure else 'ws'}://{self.place}{self.base}/ws?{urlencode(query)}"

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON at a path. Raises Refused for an error status."""
        return await self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    async def post(self, path: str, body: Any = None) -> Any:
        """Send JSON and read the answer, which may be empty. Raises Refused for an error status."""
        return await self.call("POST", path, json.dumps({} if body is None else body).encode(), "application/json")

    async def call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        """One request; the answer parsed as JSON, None when it is empty."""
        return await asyncio.to_thread(self._call, method, path, body, kind)

    async def upload(self, file: Path, subfolder: str = "") -> str:
        """Put a picture into the server's input folder; the name that it has there, which differs when another picture has its own."""
        boundary = secrets.token_hex(16)
        name = file.name.replace('"', "%22").replace("\r", "").replace("\n", "")
        fields = f'--{boundary}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{subfolder}\r\n' if subfolder else ""
        head = f'{fields}--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        body = head.encode() + await asyncio.to_thread(file.read_bytes) + f"\r\n--{boundary}--\r\n".encode()
        stored = await self.call("POST", "/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return "/".join(part for part in (stored["subfolder"], stored["name"]) if part)

    async def download(self, item: dict[str, str], folder: Path) -> Path:
        """Fetch a file that a run wrote into `folder`; a different file that is there under its name is left alone.

        Raises confine.BadName when the server names a place outside of `folder`.
        """
        return await asyncio.to_thread(self._download, item, folder)

    def _download(self, item: dict[str, str], folder: Path) -> Path:
        target = inside(folder, "/".join(part for part in (item.get("subfolder", ""), item["filename"]) if part))
        query = urlencode({name: item.get(name, "") for name in ("filename", "subfolder", "type")})
        with staged(target.parent) as (out, part):
            with contextlib.closing(self._connect()) as connection:
                answer = self._ask(connection, "GET", f"/view?{query}", None, "")
                while chunk := answer.read(_CHUNK):
                    out.write(chunk)
            out.flush()
            target = _free(target, part)
            place(part, target, overwrite=True)
        return target

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        return kind(self.place, timeout=self.timeout)

    def _call(self, method: str, path: str, body: bytes | None, kind: str) -> Any:
        with contextlib.closing(self._connect()) as connection:
            raw = self._ask(connection, method, path, body, kind).read()
        if not raw:
            return None
        try:
            return json.loads(raw)
        except ValueError as error:
            raise ConnectionError(f"{self.url}{path} did not answer with JSON; is it a latentgraph server?") from error

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, kind: str
    ) -> http.client.HTTPResponse:
        headers = {**self.headers, **({"Content-Type": kind} if kind else {})}
        try:
            connection.request(method, self.base + path, body, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionError(f"no answer from {self.url}: {error or type(error).__name__}") from error
        if answer.status >= 400:
            raw = answer.read()
            try:
                said = json.loads(raw)
            except ValueError:
                said = raw.decode("utf-8", "replace")
            raise Refused(answer.status, said, f"{method} {self.url}{path.partition('?')[0]}")
        return answer


def _words(answer: Any) -> str:
    if isinstance(answer, dict):
        error = answer.get("error", answer)
        if isinstance(error, dict):
            return ": ".join(str(error[key]) for key in ("message", "details") if error.get(key)) or json.dumps(answer)[:300]
        return str(error)
    return str(answer)[:300] or "(nothing)"


def _free(target: Path, new: Path) -> Path:
    """The name itself when it is free or holds the same bytes, else the next `name (2).png`."""
    number, candidate = 1, target
    while candidate.exists() and candidate.read_bytes() != new.read_bytes():
        number += 1
        candidate = target.with_name(f"{target.stem} ({number}){target.suffix}")
    return candidate
