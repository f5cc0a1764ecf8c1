"""The editor's files: what is cached, what is typed, and what happens without them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from server import pages
from server.settings import ServerSettings


@pytest.fixture
def static(tmp_path: Path) -> Path:
    static = tmp_path / "static"
    for name, text in {
        "index.html": "<!doctype html><title>editor</title>",
        "assets/index-AbCd_123.js": "1",
        "assets/core-AbCd-123.js.map": "{}",
        "assets/favicon.ico": "i",
        "scripts/app.js": "2",
        "fonts/a.woff2": "w",
    }.items():
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text(text)
    (tmp_path / "secret").write_text("s")
    (static / "out").symlink_to(tmp_path / "secret")
    return static


def serving(static: Path | None, home: Path, base: str = "") -> TestClient:
    routes = pages.routes(static)
    app = Starlette(routes=[Mount(base, routes=routes)] if base else routes)
    app.state.server = SimpleNamespace(settings=ServerSettings(home=home))
    return TestClient(app, base_url="http://127.0.0.1:8188")


@pytest.fixture(params=["", "/studio"])
def client(request: pytest.FixtureRequest, static: Path, tmp_path: Path) -> TestClient:
    client = serving(static, tmp_path, request.param)
    client.base_url = f"http://127.0.0.1:8188{request.param}/"
    return client


def test_the_page_is_never_kept_and_talks_to_us_only(client: TestClient) -> None:
    for path in ("", "index.html"):
        answer = client.get(path)
        assert "editor" in answer.text
        assert answer.headers["cache-control"] == "no-store"
        policy = {part.split()[0]: part.split()[1:] for part in answer.headers["content-security-policy"].split("; ")}
        assert policy["default-src"] == ["'self'"]
        assert policy["connect-src"] == ["'self'", "data:", "blob:", "ws://127.0.0.1:8188", "wss://127.0.0.1:8188"]
        assert not [source for sources in policy.values() for source in sources if source in ("*", "http:", "https:")]
        assert policy["frame-ancestors"] == ["'self'"]


def test_a_host_that_is_no_name_stays_out_of_the_policy() -> None:
    assert "evil" not in pages.policy("a; script-src evil")


@pytest.mark.parametrize(
    ("path", "kind", "lasting"),
    [
        ("assets/index-AbCd_123.js", "text/javascript; charset=utf-8", True),
        ("assets/core-AbCd-123.js.map", None, True),
        ("assets/favicon.ico", "image/vnd.microsoft.icon", False),
        ("scripts/app.js", "text/javascript; charset=utf-8", False),
        ("fonts/a.woff2", "font/woff2", False),
    ],
)
def test_types_and_how_long_a_browser_keeps_a_file(client: TestClient, path: str, kind: str | None, lasting: bool) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == ("public, max-age=31536000, immutable" if lasting else "no-cache")
    if kind is not None:
        assert answer.headers["content-type"] == kind
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", ["api/unknown", "templates/x.json", "nothing", "%2e%2e/secret", "..%2fsecret", "out", "assets", "assets/"])
def test_what_is_not_there_is_not_the_page(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "editor" not in answer.text


def test_the_user_may_have_a_style_sheet(client: TestClient, tmp_path: Path) -> None:
    answer = client.get("user.css")
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "", "text/css; charset=utf-8")
    (tmp_path / "user/default").mkdir(parents=True)
    (tmp_path / "user/default/user.css").write_text("a{}")
    assert client.get("user.css").text == "a{}"


def test_without_the_editor_the_page_says_how_to_get_it(tmp_path: Path) -> None:
    answer = serving(None, tmp_path).get("/")
    assert answer.status_code == 503
    assert 'pip install "latentgraph[editor]"' in answer.text


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PACKAGE", "latentgraph_has_no_such_package")
    assert pages.front_end() is None


def test_the_installed_front_end_is_found_and_every_script_is_typed(tmp_path: Path) -> None:
    static = pages.front_end()
    if static is None:
        pytest.skip("the extra `editor` is not installed")
    client = serving(static, tmp_path)
    assert 'id="vue-app"' in client.get("/").text
    (script,) = [path for path in (static / "assets").glob("index-*.js") if path.name in client.get("/").text]
    answer = client.get(f"/assets/{script.name}")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert "immutable" in answer.headers["cache-control"]
