from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
sys.path.insert(0, str(Path(__file__).parent))

import simple_nodes  # noqa: E402

from graph_engine.registry import Registry  # noqa: E402


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.of(*simple_nodes.ALL)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a node package for one test: `install(name, {path: source}, value=entry point, version=...)`."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    before = set(sys.modules)

    def put(name: str, files: dict[str, str], *, value: str | None = None, version: str = "1.0") -> None:
        for relative, source in files.items():
            path = place / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        info = place / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[latentgraph.nodes]\n{name} = {value or name}\n")
        importlib.invalidate_caches()

    # an empty package hides the nodes of this project, which are slow to import and not what these tests are about
    (place / "nodes").mkdir()
    (place / "nodes" / "__init__.py").touch()
    yield put
    for module in set(sys.modules) - before:
        if (file := getattr(sys.modules[module], "__file__", None)) and file.startswith(str(place)):
            del sys.modules[module]


@pytest.fixture
def calls() -> list[str]:
    """What has run in this test, in order."""
    import running_nodes

    running_nodes.calls.clear()
    return running_nodes.calls


@pytest.fixture
def engine(tmp_path: Path, calls: list[str]) -> Iterator[Callable[..., object]]:
    """Makes engines with the running nodes, a fake device and checks for mutation; all are closed in the end and leave no thread."""
    import threading

    import running_nodes
    from fakes import FakeDevice

    from graph_engine.engine import Engine
    from graph_engine.files import Folders

    made: list[Engine] = []
    before = threading.active_count()

    def make(**options: object) -> Engine:
        options = {"device": FakeDevice(), "folders": Folders(tmp_path), "debug": True, **options}
        made.append(Engine(running_nodes.registry(), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    assert threading.active_count() == before, f"left behind: {threading.enumerate()}"
    for each in made:
        each.close()
