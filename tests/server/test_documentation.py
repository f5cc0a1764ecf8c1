"""The examples of docs/api.md, as they stand there, against a whole server; and clients of others, unmodified."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import picture_nodes
import pytest
from running import running
from watcher import single

from server.openapi.document import OPERATIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
NPM = Path(__file__).parent / "npm"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home")) as there:
        yield there


@pytest.fixture
def place(tmp_path):
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "text_to_image.json").write_text(json.dumps(single("Pixel", red=9, filename_prefix=tmp_path.name)))
    return tmp_path


def example(language, server):
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return code.replace("127.0.0.1:8188", server.url.removeprefix("http://"))


def run(command, place):
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60, env={**os.environ, "NODE_NO_WARNINGS": "1"})
    assert done.returncode == 0, done.stderr
    (picture,) = place.glob("*.png")
    assert picture.read_bytes() == picture_nodes.png(9)
    return done.stdout


def node(*options):
    """The node command, or a skip that says what is missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"node {version.strip()} is too old: 20 or newer is wanted")
    return [program, *options]


def test_the_python_example(server, place):
    (place / "example.py").write_text(example("python", server))
    run([sys.executable, "example.py"], place)


def test_the_javascript_example(server, place):
    (place / "example.mjs").write_text(example("js", server))
    run([*node("--experimental-websocket"), "example.mjs"], place)


def test_both_examples_have_about_ten_lines():
    for language in ("python", "js"):
        (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
        assert len([line for line in code.splitlines() if line.strip()]) <= 13


def test_the_client_of_stable_canvas_runs_unmodified(server, place):
    if not (NPM / "node_modules" / "@stable-canvas").is_dir():
        pytest.skip("npm install --prefix tests/server/npm --no-package-lock")
    out = run([*node(), str(NPM / "stable_canvas.mjs"), server.url.removeprefix("http://"), str(place)], place)
    said = json.loads(out)
    assert said["nodes"] >= 5
    assert said["polled"] == said["invoked"] == 1
    assert said["error"] == "prompt_outputs_failed_validation"


def test_every_path_that_the_page_names_exists():
    known = {re.sub(r"\{\w+\}", "ID", each.path) for each in OPERATIONS} | {"/ws", "/openapi.json"}
    for path in re.findall(r"`(?:GET|POST) (/[\w/]+)", PAGE):
        assert path in known, path
