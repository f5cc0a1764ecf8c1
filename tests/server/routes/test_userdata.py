"""The user's files: names with slashes, spaces and percent signs, whole writes, and nothing outside the folder."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from server.refusal import Refused, answer_refused
from server.routes import userdata
from server.settings import ServerSettings


@pytest.fixture
def user(tmp_path: Path) -> Path:
    return tmp_path / "user" / "default"


@pytest.fixture
def client(tmp_path: Path, user: Path) -> TestClient:
    routes = [Mount("/api", routes=userdata.routes()), *userdata.routes()]
    app = Starlette(routes=routes, exception_handlers={Refused: answer_refused})
    app.state.server = SimpleNamespace(settings=ServerSettings(home=tmp_path))
    return TestClient(app)


def url(name: str) -> str:
    return "/userdata/" + quote(name, safe="")


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize(
    "name",
    [
        "workflows/a.json",
        "workflows/sub dir/100% ü 猫.json",
        "workflows/50%25.json",
        "a+b&c=d?e#f.json",
        "workflows/.index.json",
        "move/move",
    ],
)
def test_what_was_written_is_read_under_the_same_name(client: TestClient, user: Path, prefix: str, name: str) -> None:
    written = client.post(prefix + url(name) + "?overwrite=false&full_info=true", content=b'{"a": 1}')
    assert written.status_code == 200
    assert written.json()["path"] == name
    assert (user / name).read_bytes() == b'{"a": 1}'
    answer = client.get(prefix + url(name))
    assert answer.content == b'{"a": 1}'
    assert answer.headers["content-disposition"].startswith("attachment")
    assert client.delete(prefix + url(name)).status_code == 204
    assert client.get(prefix + url(name)).status_code == (200 if name == "workflows/.index.json" else 404)


def test_times_are_milliseconds(client: TestClient) -> None:
    info = client.post(url("workflows/a.json") + "?full_info=true", content=b"12345").json()
    assert info["size"] == 5
    for key in ("modified", "created"):
        assert isinstance(info[key], int)
        assert abs(info[key] - time.time() * 1000) < 60_000
    assert client.get("/userdata", params={"dir": "workflows", "full_info": "true"}).json() == [{**info, "path": "a.json"}]


def test_an_existing_file_is_replaced_only_on_request(client: TestClient, user: Path) -> None:
    assert client.post(url("a.json") + "?overwrite=false", content=b"1").json() == "a.json"
    assert client.post(url("a.json") + "?overwrite=false", content=b"2").status_code == 409
    assert (user / "a.json").read_bytes() == b"1"
    assert client.post(url("a.json") + "?overwrite=true", content=b"3").status_code == 200
    assert client.post(url("a.json"), content=b"4").status_code == 200
    assert (user / "a.json").read_bytes() == b"4"
    assert os.listdir(user) == ["a.json"]  # and no passing files
    assert client.post(url("a.json") + "?overwrite=perhaps", content=b"5").status_code == 400


def test_listings(client: TestClient, user: Path) -> None:
    for name in ("b.json", "a.json", "sub/c.json", ".index.json", "sub/.x/d.json"):
        client.post(url("workflows/" + name), content=b"{}")
    (user / "workflows" / "out").symlink_to("/etc")
    (user / "workflows" / "passwd").symlink_to("/etc/passwd")
    assert client.get("/userdata?dir=workflows").json() == ["a.json", "b.json"]
    assert client.get("/userdata?dir=workflows&recurse=true").json() == ["a.json", "b.json", "sub/c.json"]
    assert client.get("/userdata?dir=workflows/&recurse=true&split=true").json()[2] == ["sub/c.json", "sub", "c.json"]
    full = client.get("/userdata?dir=workflows&recurse=true&split=false&full_info=true").json()
    assert [set(info) for info in full] == [{"path", "size", "modified", "created"}] * 3
    assert client.get("/userdata?dir=workflows%2Fsub").json() == ["c.json"]
    assert client.get("/userdata").status_code == 400
    assert client.get("/userdata?dir=nowhere").status_code == 404
    assert client.get("/userdata?dir=..").status_code == 403
    assert client.get("/userdata?dir=/etc").status_code == 403


def test_a_new_user_is_asked_for_nothing_that_is_missing(client: TestClient, user: Path) -> None:
    assert client.get("/userdata?dir=workflows&recurse=true&split=false&full_info=true").json() == []
    assert client.get("/userdata?dir=subgraphs&recurse=true&split=false&full_info=true").json() == []
    assert client.get(url("comfy.templates.json")).json() == []
    assert client.get(url("workflows/.index.json")).json() == {"favorites": []}
    css = client.get(url("user.css"))
    assert (css.status_code, css.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert not user.exists()


def test_files_and_folders(client: TestClient, user: Path) -> None:
    assert client.get("/v2/userdata").json() == []
    client.post(url("workflows/sub/a.json"), content=b"{}")
    assert client.get("/v2/userdata?path=").json() == [{"name": "workflows", "path": "workflows", "type": "directory"}]
    (found,) = client.get("/v2/userdata?path=workflows/sub").json()
    assert (found["name"], found["path"], found["type"], found["size"]) == ("a.json", "workflows/sub/a.json", "file", 2)
    assert client.get("/v2/userdata?path=nowhere").status_code == 404
    assert client.get("/v2/userdata?path=..").status_code == 403


def test_renaming(client: TestClient, user: Path) -> None:
    client.post(url("workflows/a.json"), content=b"a")
    client.post(url("workflows/b.json"), content=b"b")
    there = client.post(f"{url('workflows/a.json')}/move/{quote('workflows/new dir/ü.json', safe='')}?overwrite=false&full_info=true")
    assert (there.status_code, there.json()["path"]) == (200, "workflows/new dir/ü.json")
    assert not (user / "workflows/a.json").exists()
    back = f"{url('workflows/new dir/ü.json')}/move/{quote('workflows/b.json', safe='')}"
    assert client.post(back + "?overwrite=false").status_code == 409
    assert (user / "workflows/b.json").read_bytes() == b"b"
    assert (user / "workflows/new dir/ü.json").read_bytes() == b"a"
    assert client.post(back + "?overwrite=true").json() == "workflows/b.json"
    assert (user / "workflows/b.json").read_bytes() == b"a"
    assert client.post(f"{url('gone.json')}/move/x.json").status_code == 404
    assert client.post(f"{url('workflows/b.json')}/move/..%2f..%2fx.json").status_code == 403
    assert client.post(f"{url('workflows/b.json')}/move/workflows%2Fb.json").status_code == 200
    assert (user / "workflows/b.json").read_bytes() == b"a"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("../../secret", 403),
        ("workflows/../../../secret", 403),
        ("/etc/passwd", 403),
        ("..%2f..%2fsecret", 403),
        ("..%252f..%252fsecret", 403),
        ("..\\..\\secret", 403),
        ("C:\\secret", 403),
        ("link/secret", 403),
        ("a\0b", 400),
        ("con", 400),
        ("workflows/nul.json", 400),
        ("x" * 300, 400),
        ("a.", 400),
        ("", 400),
        ("./", 400),
    ],
)
def test_names_that_lead_out_or_are_none(client: TestClient, user: Path, tmp_path: Path, name: str, status: int) -> None:
    user.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (user / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for answer in (client.get(url(name)), client.post(url(name), content=b"x"), client.delete(url(name))):
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_name_that_is_not_utf_8(client: TestClient) -> None:
    assert client.get("/userdata/%ff%fe").status_code == 400


def test_files_and_folders_in_the_way(client: TestClient, user: Path) -> None:
    client.post(url("a/b.json"), content=b"1")
    assert client.post(url("a"), content=b"2").status_code == 400
    assert client.post(url("a") + "?overwrite=false", content=b"2").status_code == 409
    assert client.post(url("a/b.json/c.json"), content=b"2").status_code == 400
    assert client.get(url("a")).status_code == 404
    assert client.delete(url("a")).status_code == 404
    assert (user / "a/b.json").read_bytes() == b"1"


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30), st.binary(max_size=64))
def test_any_name_is_kept_exactly_or_refused(client: TestClient, tmp_path: Path, user: Path, name: str, data: bytes) -> None:
    try:
        quoted = url(name)
    except UnicodeEncodeError:
        return
    answer = client.post(quoted, content=data)
    assert answer.status_code in (200, 400, 403) or (name in (".", "..") and answer.status_code == 405)  # clients shorten such an address
    if answer.status_code == 200:
        assert client.get(quoted).content == data
        assert client.delete(quoted).status_code == 204
    assert {path.name for path in tmp_path.iterdir()} <= {"user"}
