from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simple_nodes import Blur, Look, Open

from graph_engine.errors import NodeError
from graph_engine.files import KINDS, Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    base = tmp_path / "base"
    for name in (
        "models/checkpoints/b.safetensors",
        "models/checkpoints/A.ckpt",
        "models/checkpoints/sub/c.safetensors",
        "models/checkpoints/notes.txt",
        "models/checkpoints/.hidden.safetensors",
        "models/checkpoints/diffusers-one/model_index.json",
        "models/checkpoints/diffusers-one/unet/x.safetensors",
        "models/vae/folder/config.json",
        "models/vae/folder/x.safetensors",
        "models/loras/peft/adapter_config.json",
        "models/loras/one.safetensors",
        "input/a.png",
        "input/deep/b.JPG",
        "output/made.png",
        "temp/shown.png",
    ):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").touch()
    (outside / "secret.safetensors").touch()
    (base / "input" / "away.png").symlink_to(outside / "secret.png")
    (base / "input" / "out").symlink_to(outside)
    (base / "input" / "same.png").symlink_to(base / "input" / "a.png")
    (base / "models" / "checkpoints" / "away.safetensors").symlink_to(outside / "secret.safetensors")
    more = tmp_path / "more"
    more.mkdir()
    (more / "b.safetensors").touch()
    (more / "z.safetensors").touch()
    return Folders(base, {"checkpoints": [more], "clip": [more]})


def test_what_is_listed(folders: Folders) -> None:
    assert folders.list("checkpoints") == (
        "A.ckpt",
        "b.safetensors",
        "diffusers-one",
        "sub/c.safetensors",
        "z.safetensors",
    )
    assert folders.list("vae") == ("folder",)
    assert folders.list("loras") == ("one.safetensors", "peft")
    assert folders.list("input") == ("a.png", "deep/b.JPG", "same.png")
    assert folders.list("embeddings") == ()
    assert folders.list("text_encoders") == folders.list("clip") == ("b.safetensors", "z.safetensors")


def test_every_kind_can_be_listed_in_an_empty_place(tmp_path: Path) -> None:
    assert all(Folders(tmp_path / "none").list(kind) == () for kind in KINDS)


def test_what_is_listed_can_be_resolved(folders: Folders) -> None:
    for kind in KINDS:
        for name in folders.list(kind):
            assert folders.resolve(kind, name).exists()


def test_the_first_place_wins(folders: Folders) -> None:
    assert folders.resolve("checkpoints", "b.safetensors").parent.name == "checkpoints"
    assert folders.resolve("checkpoints", "z.safetensors").parent.name == "more"
    assert folders.places("checkpoints")[0] == folders.base / "models" / "checkpoints"


def test_both_slashes_and_the_marked_folders_are_understood(folders: Folders) -> None:
    assert folders.resolve("checkpoints", "sub\\c.safetensors") == folders.resolve("checkpoints", "sub/c.safetensors")
    assert folders.resolve("input", "made.png [output]").parent.name == "output"
    assert folders.resolve("input", "shown.png [temp]").parent.name == "temp"
    assert folders.resolve("output", "a.png [input]").parent.name == "input"
    assert folders.resolve("input", "same.png").name == "a.png"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "/",
        "..",
        "../output/made.png",
        "deep/../../output/made.png",
        "/etc/passwd",
        "\\etc\\passwd",
        "C:\\x.png",
        "c:x.png",
        "~/x.png",
        "a.png\0.png",
        "away.png",
        "out/secret.png",
        "..\\output\\made.png",
        "../input/a.png",
        "../secret.png [output]",
        "\ud800.png",
        "a" * 5000,
        "a/" * 3000 + "a",
        "deep//../a.png",
    ],
    ids=lambda name: ascii(name)[:30],
)
def test_a_name_that_leads_out_or_nowhere_is_refused(folders: Folders, name: str) -> None:
    with pytest.raises(NodeError):
        folders.resolve("input", name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "a.png", "deep", "out", "/", "\\", "C:", "~", " [output]", "\0", "x"])).map("".join))
def test_no_name_leaves_its_folder(folders: Folders, name: str) -> None:
    try:
        path = folders.resolve("input", name)
    except NodeError:
        return
    inside = [(folders.base / kind).resolve() for kind in ("input", "output", "temp")]
    assert any(path.is_relative_to(place) for place in inside)


@pytest.mark.parametrize("kind", ["", "..", "a/b", "models/../input", "a\0"])
def test_a_kind_is_a_plain_name(folders: Folders, kind: str) -> None:
    with pytest.raises(NodeError, match="not a kind of folder"):
        folders.list(kind)


def test_a_missing_file_names_the_nearest(folders: Folders) -> None:
    with pytest.raises(NodeError, match=r"there is no 'c\.safetensor' in .*checkpoints; did you mean"):
        folders.resolve("checkpoints", "c.safetensor")


def test_embedded_names_come_first_and_import_nothing(folders: Folders) -> None:
    file = Open.spec.inputs[0]
    assert folders.choices(file)[0] == "tiny"
    assert folders.choices(file)[1:] == folders.list("checkpoints")
    path = folders.resolve("checkpoints", "tiny", file.embedded)
    assert path.name == "registry.py"
    assert folders.choices(Look.spec.inputs[0]) == folders.list("input")
    assert folders.choices(Blur.spec.inputs[2]) == ("soft", "hard")


def test_the_package_of_an_embedded_name_is_not_imported(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "shipped"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "inner" / "weights").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert folders.resolve("checkpoints", "w", {"w": "shipped:inner/weights"}) == package / "inner" / "weights"
    assert folders.resolve("checkpoints", "w", {"w": "shipped.inner:weights"}) == package / "inner" / "weights"
    assert "shipped" not in sys.modules
    for gone in ("shipped:other", "nowhere:weights", "shipped"):
        with pytest.raises(NodeError, match="not installed"):
            folders.resolve("checkpoints", "w", {"w": gone})


def test_an_extra_folder_for_output_is_where_new_files_go(tmp_path):
    folders = Folders(tmp_path / "home", {"output": [tmp_path / "mine"], "loras": [tmp_path / "more"]})
    assert folders.places("output") == [tmp_path / "mine", tmp_path / "home" / "output"]
    assert folders.places("loras") == [tmp_path / "home" / "models" / "loras", tmp_path / "more"]
