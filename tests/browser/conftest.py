"""A server of its own and a headless Chromium. What a page complains about fails the test that opened it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # driving

ROOT = Path(__file__).parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
SIZE = {"width": 1440, "height": 900}
PATIENCE = 120_000  # milliseconds; the machine may be busy with anything
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "LATENTGRAPH_DEVICE": "cpu"}
READY = "() => window.app?.graph && window.app.canvas && !document.querySelector('#splash-loader')"


def chromium_path() -> str | None:
    """Debian's Chromium, or whatever CHROMIUM names."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str | None:
    """Why the page cannot be driven here."""
    for package, extra in (("playwright", "dev"), ("comfyui_frontend_package", "editor")):
        if find_spec(package) is None:
            return f"{package} is not installed (pip install -e '.[{extra}]')"
    return None if chromium_path() else "there is no chromium (apt install chromium, or set CHROMIUM)"


@dataclass
class Server:
    """A running server: where it is, and where its files are."""

    url: str
    home: Path


@contextmanager
def run_server(home: Path, *options: str, **environment: str) -> Iterator[Server]:
    """`latentgraph serve` on a free port, with a home of its own."""
    command = [sys.executable, "-c", "from server.cli import main; main()", "serve", "--port", "0", "--home", str(home), *options]
    log = home / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stderr=out, stdout=out, env={**os.environ, **ENVIRONMENT, **environment})
    try:
        yield Server(_address(process, log), home)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(1200):
        if found := re.search(r"http://\S+", log.read_text()):
            return found[0]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the server does not answer:\n{log.read_text()}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if reason := missing():
        pytest.skip(reason)
    with run_server(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="session")
def running() -> Callable[..., Any]:
    """Start a server in a home, with options and environment: `with running(home, "--base", "/studio/") as server`."""
    if reason := missing():
        pytest.skip(reason)
    return run_server


@pytest.fixture(scope="module")  # not longer: its event loop would be in the way of other modules
def chromium() -> Iterator[Any]:
    if reason := missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Watch:
    """Everything that went wrong on a page. `expected` are patterns of what the test itself provokes."""

    origin: str
    problems: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    answered: set[Any] = field(default_factory=set)

    def add(self, problem: str) -> None:
        self.problems.append(problem)

    def unexpected(self) -> list[str]:
        return [problem for problem in self.problems if not any(re.search(pattern, problem) for pattern in self.expected)]

    def over(self, page: Any) -> None:
        """Listen to a page: errors in its console, exceptions, failed requests, requests to anywhere else."""
        page.on("console", lambda message: self.add(f"console: {message.text}") if message.type == "error" else None)
        page.on("pageerror", lambda error: self.add(f"exception: {error}"))
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)
        page.on("request", lambda request: self.add(f"outside: {request.url}") if not self._ours(request.url) else None)

    def _answered(self, answer: Any) -> None:
        self.answered.add(answer.request)
        if answer.status >= 400:
            self.add(f"status {answer.status}: {answer.url}")

    def _failed(self, request: Any) -> None:
        if request not in self.answered:  # else it was an empty body that the page did not read
            self.add(f"failed: {request.method} {request.url} {request.failure}")

    def _ours(self, url: str) -> bool:
        return url.startswith((self.origin, self.origin.replace("http", "ws", 1), "data:", "blob:"))


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., tuple[Any, Watch]]]:
    """Open an address in a browser that was never here. At the end nothing may have gone wrong on any such page."""
    watches: list[tuple[Any, Watch]] = []

    def open_page(url: str, *, ready: bool = True, settings: dict[str, Any] | None = None) -> tuple[Any, Watch]:
        context = chromium.new_context(viewport=SIZE, reduced_motion="reduce")
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        watch = Watch("/".join(url.split("/")[:3]))
        watches.append((context, watch))
        watch.over(page)
        if settings:
            page.request.post(f"{url}api/settings", data=settings)
        page.goto(url)
        if ready:
            page.wait_for_function(READY)
        return page, watch

    yield open_page
    problems = [problem for _, watch in watches for problem in watch.unexpected()]
    for context, _ in watches:
        context.close()
    assert not problems


@pytest.fixture
def editor(server: Server, opened: Callable[..., tuple[Any, Watch]]) -> tuple[Any, Watch]:
    """The page of somebody who was here before, on an empty graph."""
    from driving import LISTEN, QUIET, blank

    page, watch = opened(server.url, settings=QUIET)
    blank(page)
    page.evaluate(LISTEN)
    return page, watch


@pytest.fixture
def picture() -> Callable[[Any, str], None]:
    """Keep a screenshot of a page, for people to look at."""

    def keep(page: Any, name: str) -> None:
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return keep
