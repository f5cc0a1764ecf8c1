from __future__ import annotations

import subprocess
import sys
import types

import pytest

import graph_engine


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_importing_it_loads_little_starts_nothing_and_prints_nothing() -> None:
    heavy = {"torch", "numpy", "networkx", "diffusers", "transformers", "PIL", "asyncio", "sqlite3"}
    said = in_a_new_process(
        "import sys, threading\nimport graph_engine\n"
        f"assert not {heavy!r} & set(sys.modules), {heavy!r} & set(sys.modules)\n"
        "assert threading.active_count() == 1\n"
    )
    assert said == ""


def test_what_needs_only_declarations_never_imports_torch_or_networkx() -> None:
    said = in_a_new_process(
        "import sys, threading\n"
        "from graph_engine import Catalogue, Folders, Graph, Node, Problem, Registry, Workflow, validate\n"
        "from graph_engine.schema import json_schema\n"
        "class Tell(Node, category='t', output=True):\n"
        "    text: str = ''\n"
        "    def run(self, ctx) -> None: ...\n"
        "r = Registry.of(Tell)\n"
        "g = Graph(r)\n"
        "g.Tell(text='x')\n"
        "assert validate(g.workflow(), r.specs) == []\n"
        "json_schema(r.specs)\n"
        "heavy = {'torch', 'numpy', 'networkx', 'diffusers', 'transformers', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert threading.active_count() == 1\n"
    )
    assert said == ""


def test_it_works_where_torch_is_not_installed() -> None:
    said = in_a_new_process(
        "import sys\nsys.modules['torch'] = None\nimport graph_engine\nfor name in graph_engine.__all__: getattr(graph_engine, name)\n"
    )
    assert said == ""


@pytest.mark.parametrize("name", graph_engine.__all__)
def test_every_public_name_is_where_it_is_said_to_be(name: str) -> None:
    assert not isinstance(getattr(graph_engine, name), types.ModuleType)
    assert name in dir(graph_engine)


def test_the_public_names_are_few_and_others_are_refused() -> None:
    assert len(graph_engine.__all__) <= 20
    assert sorted([*graph_engine._HOME, "validate"]) == sorted(graph_engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        graph_engine.torch  # noqa: B018
