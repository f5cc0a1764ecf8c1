"""Node types, their help, model files and the template browser, as the editor asks for them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from graph_engine import Folders
from graph_engine.editor.definitions import Definitions
from graph_engine.files import KINDS
from graph_engine.spec import InputSpec, NodeSpec, OutputSpec
from server.models import KINDS as MODELS
from server.refusal import Refused, answer_refused
from server.routes import nodes
from server.settings import ServerSettings

LOADER = NodeSpec(
    type="Loader",
    title="Load | <it>",
    category="loaders",
    description="Opens a model (Someone 2020).",
    package="mine",
    inputs=(
        InputSpec(name="file", types=("COMBO",), folder="checkpoints", embedded={"own": "server:workflows"}),
        InputSpec(name="side", types=("INT",), minimum=8, maximum=64, multiple_of=8, default=16, required=False, description="In pixels."),
        InputSpec(name="mode", types=("COMBO",), choices=("a", "b|c"), lazy=True),
        InputSpec(name="more", types=("IMAGE",), list=True, optional=True, required=False),
    ),
    outputs=(OutputSpec(name="model", types=("MODEL",), description="To sample with."),),
    output=True,
    aliases=("open",),
)
SLASHED = NodeSpec(type="With/slash", title="Slashed", category="test", description="Has an odd name.", package="core")
Page = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for kind in ("checkpoints", "embeddings", "loras"):
        (tmp_path / "models" / kind).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def client(home: Path) -> TestClient:
    app = Starlette(routes=nodes.routes(), exception_handlers={Refused: answer_refused})
    specs, folders = {spec.type: spec for spec in (LOADER, SLASHED)}, Folders(home)
    app.state.server = SimpleNamespace(
        settings=ServerSettings(home=home, body_limit=1234), specs=specs, folders=folders, definitions=Definitions(specs, folders)
    )
    return TestClient(app)


def write_safetensors(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)


# node types


def test_all_node_types_at_once(client):
    found = client.get("/object_info").json()
    assert set(found) == {"Loader", "With/slash"}
    assert found["Loader"]["input"]["required"]["file"][0] == ["own"]


def test_the_answer_is_sent_again_only_when_it_has_changed(client, home):
    first = client.get("/object_info")
    assert client.get("/object_info", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    (home / "models" / "checkpoints" / "new.safetensors").touch()
    after = client.get("/object_info", headers={"If-None-Match": first.headers["etag"]})
    assert after.status_code == 200
    assert after.json()["Loader"]["input"]["required"]["file"][0] == ["own", "new.safetensors"]


@pytest.mark.parametrize("name", ["Loader", "With/slash", "With%2Fslash"])
def test_one_node_type(client, name):
    known = name.replace("%2F", "/")
    assert client.get(f"/object_info/{name}").json() == {known: client.get("/object_info").json()[known]}


def test_a_node_type_that_is_not_there_is_an_empty_object(client):
    answer = client.get("/object_info/Nothing")
    assert (answer.status_code, answer.json()) == (200, {})


@pytest.mark.parametrize("place", ["/docs/Loader/en.md", "/docs/Loader/fr.md", "/extensions/mine/docs/Loader/en.md"])
def test_a_help_page_is_written_from_the_declaration(client, place):
    answer = client.get(place)
    assert answer.headers["content-type"].startswith("text/markdown")
    text = answer.text
    assert text.startswith("# Load \\| \\<it\\>\n\nOpens a model (Someone 2020).\n")
    assert "| `side` | INT | `16` | In pixels. From 8 to 64 in multiples of 8. |" in text
    assert "One of `a`, `b\\|c`. Computed only when it is needed." in text
    assert "| `more` | list of IMAGE | nothing |  |" in text
    assert "| `model` | MODEL | To sample with. |" in text
    cells = {len(line.replace("\\|", "").split("|")) for line in text.splitlines() if line.startswith("| ")}
    assert cells == {6, 5}  # every row has the columns of its head


@pytest.mark.parametrize("place", ["/docs/Nothing/en.md", "/docs/Loader/en.html", "/extensions/mine/docs/Nothing/en.md"])
def test_there_is_no_page_about_nothing(client, place):
    answer = client.get(place)
    assert answer.status_code == 404
    assert "error" in answer.json()


# model files


def test_kinds_of_models(client, home):
    assert client.get("/models").json() == list(MODELS)
    assert set(KINDS) - set(MODELS) == {"input", "output", "temp", "latents", "trajectories"}
    found = {entry["name"]: entry["folders"] for entry in client.get("/experiment/models").json()}
    assert found["loras"] == [str(home / "models" / "loras")]


def test_names_of_models(client, home):
    (home / "models" / "checkpoints" / "sub").mkdir()
    (home / "models" / "checkpoints" / "sub" / "a.safetensors").touch()
    (home / "models" / "embeddings" / "style.v2.pt").touch()
    assert client.get("/models/checkpoints").json() == ["own", "sub/a.safetensors"]
    assert client.get("/embeddings").json() == ["style.v2"]


def test_sizes_and_times_of_models(client, home):
    file = home / "models" / "loras" / "a.safetensors"
    file.write_bytes(b"1234567")
    folder = home / "models" / "checkpoints" / "whole"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    [entry] = client.get("/experiment/models/loras").json()
    assert (entry["name"], entry["pathIndex"], entry["size"]) == ("a.safetensors", 0, 7)
    assert entry["modified"] == file.stat().st_mtime_ns // 1_000_000
    [entry] = client.get("/experiment/models/checkpoints").json()
    assert (entry["name"], entry["size"]) == ("whole", 2)


@pytest.mark.parametrize("place", ["/models/secrets", "/models/input", "/experiment/models/..", "/view_metadata/output?filename=a"])
def test_other_folders_are_no_kinds_of_models(client, place):
    assert client.get(place).status_code == 404


def test_what_a_file_says_of_itself(client, home):
    place = home / "models" / "loras"
    write_safetensors(place / "a.safetensors", json.dumps({"__metadata__": {"title": "A"}, "w": {}}).encode())
    write_safetensors(place / "bare.safetensors", b"{}")
    (place / "b.pt").write_bytes(b"pickled")
    assert client.get("/view_metadata/loras", params={"filename": "a.safetensors"}).json() == {"title": "A"}
    assert client.get("/view_metadata/loras", params={"filename": "bare.safetensors"}).json() == {}
    assert client.get("/view_metadata/loras", params={"filename": "b.pt"}).json() == {}


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"\xff" * 64, 400), (struct.pack("<Q", 4) + b"{{{{", 400), (struct.pack("<Q", 2) + b"[]", 200)],
    ids=["empty", "too long", "no json", "no object"],
)
def test_a_damaged_file_is_refused(client, home, data, status):
    (home / "models" / "loras" / "a.safetensors").write_bytes(data)
    assert client.get("/view_metadata/loras", params={"filename": "a.safetensors"}).status_code == status


@pytest.mark.parametrize(
    ("name", "status"),
    [("none.safetensors", 404), ("", 400), ("../../secret.safetensors", 400), ("/etc/passwd", 400), ("a\0b", 400), ("C:\\x", 400)],
)
def test_a_name_stays_in_its_folder(client, home, name, status):
    write_safetensors(home / "secret.safetensors", b'{"__metadata__": {"a": "secret"}}')
    answer = client.get("/view_metadata/loras", params={"filename": name})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


# what only keeps the editor quiet


@pytest.mark.parametrize(
    ("place", "wanted"),
    [("/i18n", {}), ("/global_subgraphs", {}), ("/node_replacements", {}), ("/workflow_templates", {}),
     ("/templates/index_logo.json", {})],
)  # fmt: skip
def test_there_is_nothing_more(client, place, wanted):
    assert client.get(place).json() == wanted


def test_the_scripts_that_are_added_are_there(client):
    places = client.get("/extensions").json()
    assert places
    for place in places:
        answer = client.get(place)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/javascript")


def test_a_subgraph_that_is_not_there(client):
    assert client.get("/global_subgraphs/x").status_code == 404


def test_features_say_how_much_may_be_uploaded(client):
    assert client.get("/features").json()["max_upload_size"] == 1234


# templates: those of this project need other node types than there are here


def test_graphs_of_unknown_node_types_are_not_offered(client):
    assert client.get("/templates/index.json").json() == []


@pytest.mark.parametrize(
    "file", ["none.json", "none-1.webp", "index", "README.md", "first_edit", "first_edit-3.webp", "..%2Fpyproject.toml"]
)
def test_only_what_is_listed_is_served(client, file):
    assert client.get(f"/templates/{file}").status_code == 404
