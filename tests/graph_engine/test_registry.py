from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simple_nodes import Blank, Blur, Picture

from graph_engine.errors import DeclarationError
from graph_engine.node import Node
from graph_engine.registry import Registry

Install = Callable[..., None]


def test_a_registry_of_given_classes() -> None:
    registry = Registry.of(Blank, Blur)
    assert registry["Blur"] is Blur
    assert registry.specs["Blank"] == Blank.spec
    assert list(registry) == ["Blank", "Blur"]
    assert "Blur" in registry
    assert len(registry) == 2
    assert registry.get("Other") is None


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="did you mean 'Blur'"):
        Registry.of(Blank, Blur)["Blurr"]


def test_adding_twice_is_harmless_but_a_taken_type_is_refused() -> None:
    registry = Registry.of(Blank, Blank)
    other = type("Blank", (Node,), {"run": Blank.run, "__module__": __name__}, category="x")
    with pytest.raises(DeclarationError, match=r"'Blank' of .* is already declared in simple_nodes"):
        registry.add(other)
    assert registry["Blank"] is Blank


@pytest.mark.parametrize("odd", [Picture, Node, 5])
def test_what_is_no_node_is_refused(odd: Any) -> None:
    with pytest.raises(DeclarationError, match="is not a node"):
        Registry().add(odd)


NODE = """
from graph_engine.node import Node

class {name}(Node, category="test"):
    def run(self, ctx) -> {returns}: ...
"""


def test_packages_are_walked(install: Install) -> None:
    install(
        "walked",
        {
            "walked/__init__.py": "",
            "walked/one.py": NODE.format(name="WalkedOne", returns="int"),
            "walked/below/__init__.py": NODE.format(name="WalkedTwo", returns="int"),
            "walked/below/three.py": NODE.format(name="WalkedThree", returns="int") + "from walked.one import WalkedOne",
            "walked/__main__.py": "raise SystemExit('not to be imported')",
        },
    )
    registry = Registry.discover()
    found = {type: spec for type, spec in registry.specs.items() if type.startswith("Walked")}
    assert sorted(found) == ["WalkedOne", "WalkedThree", "WalkedTwo"]
    assert {spec.package for spec in found.values()} == {"walked"}
    assert found["WalkedThree"].module == "walked.below.three"
    assert not [broken for broken in registry.broken if broken.name.startswith("walked")]


def test_a_single_module_is_a_package_too(install: Install) -> None:
    install("lonely", {"lonely.py": NODE.format(name="Lonely", returns="str")})
    assert "Lonely" in Registry.discover()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("raise ValueError('on purpose')", "ValueError: on purpose"),
        ("this is no python", "SyntaxError"),
        ("import sys; sys.exit(3)", "SystemExit"),
        (NODE.format(name="Odd", returns="dict"), "DeclarationError"),
    ],
)
def test_a_broken_package_is_reported_and_the_others_work(
    install: Install, source: str, error: str, request: pytest.FixtureRequest
) -> None:
    number = request.node.callspec.indices["source"]
    install(f"broken{number}", {f"broken{number}/__init__.py": source})
    install(f"whole{number}", {f"whole{number}/__init__.py": NODE.format(name=f"Whole{number}", returns="int")})
    registry = Registry.discover()
    (broken,) = [each for each in registry.broken if each.name == f"broken{number}"]
    assert error in broken.error
    assert "Traceback" in broken.traceback
    assert f"Whole{number}" in registry


def test_a_broken_module_leaves_the_rest_of_its_package(install: Install) -> None:
    good = NODE.format(name="HalfGood", returns="int")
    install("half", {"half/__init__.py": "", "half/bad.py": "1 / 0", "half/good.py": good})
    registry = Registry.discover()
    assert "HalfGood" in registry
    (broken,) = [each for each in registry.broken if each.name.startswith("half")]
    assert broken.name == "half:half.bad"
    assert "ZeroDivisionError" in broken.error


def test_a_missing_package_and_a_taken_type_are_reported(install: Install) -> None:
    install("absent", {})
    install("first", {"first.py": NODE.format(name="Claimed", returns="int")})
    install("second", {"second.py": NODE.format(name="Claimed", returns="str")})
    registry = Registry.discover()
    assert registry["Claimed"].__module__ == "first"
    names = {broken.name for broken in registry.broken}
    assert {"absent", "second:second.Claimed"} <= names


def test_an_entry_point_must_name_a_module(install: Install, tmp_path: Path) -> None:
    install("pointed", {"pointed.py": NODE.format(name="Pointed", returns="int")}, value="pointed:Pointed")
    registry = Registry.discover()
    assert "Pointed" not in registry
    assert any(broken.name == "pointed" and "must name a package or module" in broken.error for broken in registry.broken)


def test_a_module_is_included_by_name(install: Install) -> None:
    install("odd", {"odd_nodes.py": NODE.format(name="Odd", returns="int"), "bad_nodes.py": "1 / 0"}, value="missing")
    registry = Registry.of(Blank)
    registry.include("odd_nodes")
    assert list(registry) == ["Blank", "Odd"]
    with pytest.raises(DeclarationError, match=r"bad_nodes: ZeroDivisionError"):
        registry.include("bad_nodes")
    with pytest.raises(DeclarationError, match=r"no_such_nodes: ModuleNotFoundError"):
        registry.include("no_such_nodes")
