"""Files that come with the node packages count among those of their kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from starlette.applications import Starlette
from starlette.testclient import TestClient

from graph_engine import Folders
from graph_engine.spec import InputSpec, NodeSpec
from server.models import shipped, shipped_file
from server.refusal import Refused, answer_refused
from server.routes import files
from server.settings import ServerSettings

OWN = {"own.png": "nodes:pictures/toybox_example.png", "lost.png": "nodes:pictures/none.png"}
SPECS = {"Load": NodeSpec(type="Load", inputs=(InputSpec(name="image", types=("COMBO",), folder="input", embedded=OWN),))}


def test_shipped_files_are_known_by_kind_and_found_without_importing_their_package():
    assert shipped(SPECS, "input") == OWN
    assert shipped(SPECS, "loras") == {}
    assert shipped_file(SPECS, "input", "own.png").name == "toybox_example.png"
    assert shipped_file(SPECS, "input", "lost.png") is None
    assert shipped_file(SPECS, "output", "own.png") is None


def test_a_shipped_picture_can_be_looked_at_and_goes_first_as_it_does_in_a_run(tmp_path: Path):
    app = Starlette(routes=files.routes(), exception_handlers={Refused: answer_refused})
    app.state.server = SimpleNamespace(settings=ServerSettings(home=tmp_path), folders=Folders(tmp_path), specs=SPECS)
    client = TestClient(app)
    question = {"filename": "own.png", "type": "input"}
    assert client.get("/view", params=question).content.startswith(b"\x89PNG")
    assert client.get("/view", params={**question, "filename": "lost.png"}).status_code == 404
    (tmp_path / "input" / "sub").mkdir(parents=True)
    for place in ("own.png", "sub/own.png"):
        (tmp_path / "input" / place).write_bytes(b"mine")
    assert client.get("/view", params=question).content == Folders(tmp_path).resolve("input", "own.png", OWN).read_bytes()
    assert client.get("/view", params={**question, "subfolder": "sub"}).content == b"mine"
