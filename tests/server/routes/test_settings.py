"""The editor's settings: kept by id, whole, and readable whatever happened to the file."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from server.refusal import Refused, answer_refused
from server.routes import settings
from server.settings import ServerSettings


@pytest.fixture
def user(tmp_path: Path) -> Path:
    return tmp_path / "user" / "default"


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    app = Starlette(routes=settings.routes(), exception_handlers={Refused: answer_refused})
    app.state.server = SimpleNamespace(settings=ServerSettings(home=tmp_path))
    return TestClient(app)


def test_there_is_one_user(client: TestClient) -> None:
    assert client.get("/users").json() == {"storage": "server", "migrated": True}
    assert client.post("/users", json={"username": "x"}).status_code == 400


def test_settings_are_kept_by_id_whatever_the_content_type(client: TestClient, user: Path) -> None:
    text = {"Content-Type": "text/plain;charset=UTF-8"}
    assert client.post("/settings/Comfy.InstalledVersion", content=b'"1.58.1"', headers=text).status_code == 200
    assert client.post("/settings", content=b'{"a.b": [1], "c": null}', headers=text).status_code == 200
    known = client.get("/settings").json()
    assert known["Comfy.InstalledVersion"] == "1.58.1"
    assert (known["a.b"], known["c"]) == ([1], None)
    assert client.get("/settings/a.b").json() == [1]
    assert client.get("/settings/unknown").json() is None
    assert json.loads((user / "comfy.settings.json").read_text())["a.b"] == [1]


def test_nothing_is_asked_outside_unless_the_user_wants_it(client: TestClient) -> None:
    assert client.get("/settings").json()["Comfy.Notification.ShowVersionUpdates"] is False
    client.post("/settings/Comfy.Notification.ShowVersionUpdates", content=b"true")
    assert client.get("/settings").json()["Comfy.Notification.ShowVersionUpdates"] is True


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_settings_that_are_no_json(client: TestClient, body: bytes) -> None:
    assert client.post("/settings/x", content=body).status_code == 400
    assert client.post("/settings", content=body).status_code == 400


def test_settings_have_their_shape_and_size(client: TestClient) -> None:
    assert client.post("/settings", content=b"[1]").status_code == 400
    assert client.post("/settings/x", content=b'"' + b"x" * (1 << 20) + b'"').status_code == 413


def test_a_broken_settings_file_is_put_aside(client: TestClient, user: Path, caplog: pytest.LogCaptureFixture) -> None:
    user.mkdir(parents=True)
    (user / "comfy.settings.json").write_text('{"a": 1')
    assert client.get("/settings").status_code == 200
    assert (user / "comfy.settings.json.broken").read_text() == '{"a": 1'
    assert "cannot be read" in caplog.text


def test_settings_that_come_at_once_are_all_kept(client: TestClient) -> None:
    with client, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.post(f"/settings/k{n}", content=str(n).encode()), range(24)))
    known = client.get("/settings").json()
    assert [known[f"k{n}"] for n in range(24)] == list(range(24))
