"""The template browser: every graph of the project, with words, a picture and a graph that the editor opens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from graph_engine import Catalogue, Folders, Workflow, validate
from graph_engine.editor.convert import to_api
from graph_engine.editor.definitions import Definitions
from server import templates
from server.thumbnails import SIDE, grid

ROOT = Path(__file__).parents[2]
GRAPHS = sorted(file.stem for file in (ROOT / "workflows").glob("*.json"))
KNOWN = {each.name: each for each in templates.examples()}


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load()


@pytest.fixture(scope="module")
def definitions(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    return Definitions(catalogue.specs, Folders(tmp_path_factory.mktemp("home")))


def test_every_graph_of_the_project_is_offered_once(catalogue):
    offered = [entry["name"] for shelf in templates.index(catalogue.specs) for entry in shelf["templates"]]
    assert sorted(offered) == GRAPHS


def test_the_index_has_what_the_template_browser_reads(catalogue):
    for shelf in templates.index(catalogue.specs):
        assert shelf["moduleName"] == "default"
        assert shelf["title"]
        for entry in shelf["templates"]:
            assert entry["mediaType"] == "image"
            assert entry["mediaSubtype"] == "webp"
            assert entry["description"].endswith(".")
            # the browser writes spaces for these
            assert not re.search(r"[-_]", entry["description"])
    titles = [each.title for each in KNOWN.values()]
    assert len(set(titles)) == len(titles)


def test_the_table_in_the_readme_says_the_same():
    text = (ROOT / "workflows" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(each.name, each.title, each.description) for each in KNOWN.values()]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_opens_in_the_editor_and_says_the_same_there(name, catalogue, definitions):
    drawn = templates.graph(f"{name}.json", definitions)
    assert drawn is not None
    back = to_api(drawn, definitions())
    written = json.loads((ROOT / "workflows" / f"{name}.json").read_bytes())
    assert {id: node["class_type"] for id, node in back.items()} == {id: node["class_type"] for id, node in written.items()}
    for id, node in written.items():
        assert node["inputs"].items() <= back[id]["inputs"].items()
        assert back[id]["_meta"]["title"] == node["_meta"]["title"]
        defaults = {entry.name: entry.default for entry in catalogue.specs[node["class_type"]].inputs}
        for input, value in back[id]["inputs"].items():
            assert input in node["inputs"] or value == defaults[input]
    assert validate(Workflow.from_json(back), catalogue.specs) == []


@pytest.mark.parametrize("name", GRAPHS)
def test_running_it_again_as_it_is_computes_nothing_anew(name, definitions):
    # a seed that changed by itself would
    drawn = templates.graph(f"{name}.json", definitions)
    for node in drawn["nodes"]:
        assert not {"randomize", "increment", "decrement"} & {value for value in node.get("widgets_values", []) if isinstance(value, str)}


@pytest.mark.parametrize("name", GRAPHS)
def test_its_picture_is_there_and_shows_something(name):
    for number in (1, 2) if KNOWN[name].before_and_after else (1,):
        path = templates.thumbnail(f"{name}-{number}.webp")
        assert path is not None
        assert path.stat().st_size < 60_000
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("WEBP", (SIDE, SIDE))
            assert any(low != high for low, high in picture.convert("RGB").getextrema())


@pytest.mark.parametrize("count", range(1, 12))
def test_pictures_are_laid_out_whole_in_a_square(count):
    colors = [(20 * n + 15, 255 - 20 * n, 128) for n in range(count)]
    whole = grid([Image.new("RGB", (64, 32), color) for color in colors])
    assert whole.size == (SIDE, SIDE)
    shown = {color for _, color in whole.getcolors(SIDE * SIDE)}
    assert set(colors[:9]) <= shown


def test_an_installed_package_brings_the_graphs(tmp_path):
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert config["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"workflows": "server/workflows"}
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, which builds the package")
    [file] = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(file) as archive:
        archive.extractall(tmp_path / "site")
    asked = "from server import templates; print(templates.folder()); print(*(each.name for each in templates.examples()))"
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    place, names = done.stdout.splitlines()
    assert Path(place) == tmp_path / "site" / "server" / "workflows"
    assert sorted(names.split()) == GRAPHS
    assert (Path(place) / "thumbnails" / "first_edit-1.webp").is_file()
