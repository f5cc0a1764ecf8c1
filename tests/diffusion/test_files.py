import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.convert import convert
from diffusion.files import ALLOW, open_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.zeros(0)}


@pytest.fixture
def path(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", {"note": "yes"})
    return tmp_path / "x.safetensors"


def test_shapes_and_metadata_without_reading(path):
    file = open_tensors(path)
    assert file.shapes == {"a": (2, 3), "b": (2,), "c": (0,)}
    assert file.dtypes["b"] == torch.bfloat16
    assert file.metadata == {"note": "yes"}
    assert torch.equal(file.read(["a"])["a"], TENSORS["a"])


def test_what_is_written_is_what_safetensors_reads(tmp_path):
    with open(tmp_path / "y.safetensors", "wb") as file:
        write_tensors(file, {**TENSORS, "t": TENSORS["a"].T}, {"k": "v"})
    read = load_file(tmp_path / "y.safetensors")
    assert read.keys() == {"a", "b", "c", "t"}
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())
    assert torch.equal(read["t"], TENSORS["a"].T)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "HTML page"),
        (b"\n <html><body>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b'{"error": "Invalid username or password."}', "JSON"),
        (b"hello, this is text", "not a safetensors file"),
        (b"\x05\x00\x00\x00\x00\x00\x00\x00{", "truncated"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{{", "damaged"),
    ],
)
def test_what_is_no_safetensors_file_is_told_in_one_sentence(content, found, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=found) as problem:
        open_tensors(tmp_path / "x.safetensors")
    assert "\n" not in str(problem.value)
    assert str(problem.value).startswith("x.safetensors: ")


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.bin"])
def test_what_is_no_file_of_tensors_is_told_whatever_it_is_called(name, tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    for content, found in ((b"", "empty"), (b"<!DOCTYPE html>", "HTML page"), (b"version https://git-lfs.github.com/spec/v1", "Git LFS")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=found):
            open_tensors(tmp_path / name)


@pytest.mark.parametrize("length", [0x0280, 0x4B50, 0x40 + 0x3C00])  # as a pickle, a zip archive and a page begin
@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_a_safetensors_file_is_told_by_its_header_and_not_by_the_bytes_of_its_length(length, name, tmp_path):
    empty = len(json.dumps({"__metadata__": {"a": ""}}, separators=(",", ":")))
    with open(tmp_path / name, "wb") as file:
        write_tensors(file, {}, {"a": "x" * (length - empty)})
    assert (tmp_path / name).read_bytes()[:2] == length.to_bytes(2, "little")
    assert len(open_tensors(tmp_path / name).metadata["a"]) == length - empty


class ModelCheckpoint:
    """Stands for Lightning's."""


def test_what_trainers_left_beside_the_weights_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    where = "pytorch_lightning.callbacks.model_checkpoint"
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", where):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[where].ModelCheckpoint = ModelCheckpoint
    monkeypatch.setattr(ModelCheckpoint, "__module__", where)
    left = {ModelCheckpoint: {"best": np.float64(0.5), "now": ModelCheckpoint()}}
    torch.save({"state_dict": {"a": TENSORS["a"]}, "callbacks": left, "epoch": 3}, tmp_path / "x.ckpt")
    file = open_tensors(tmp_path / "x.ckpt")
    assert file.shapes == {"a": (2, 3)}
    assert torch.equal(file.read(["a"])["a"], TENSORS["a"])


def test_what_is_wrong_with_a_pickle_is_told_without_advice_to_run_it(tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    torch.save({"state_dict": {"a": Path}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"^x\.ckpt: this pickled file cannot be read .*: it wants pathlib\.Path run, which is code$"):
        open_tensors(tmp_path / "x.ckpt")
    torch.save(TENSORS, tmp_path / "y.ckpt")
    whole = (tmp_path / "y.ckpt").read_bytes()
    for size in (10, len(whole) // 2):
        (tmp_path / "y.ckpt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"it is damaged, or no file of PyTorch$"):
            open_tensors(tmp_path / "y.ckpt")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=f"^{tmp_path.name}: a file of tensors is wanted, this is a folder$"):
        open_tensors(tmp_path)


def test_truncated_anywhere(path):
    whole = path.read_bytes()
    for size in (4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"truncated|not a safetensors"):
            open_tensors(path)


def test_a_zip_under_another_name_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("a")
    made = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "in")
    shutil.move(made, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="zip archive"):
        open_tensors(tmp_path / "x.safetensors")


def test_pickles_only_when_allowed_and_then_as_weights(tmp_path, monkeypatch):
    torch.save({"state_dict": {"a": TENSORS["a"], "step": 3}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"--allow-pickle.*python -m diffusion\.convert x\.ckpt"):
        open_tensors(tmp_path / "x.ckpt")
    assert torch.equal(load_file(convert(tmp_path / "x.ckpt"))["a"], TENSORS["a"])
    monkeypatch.setenv(ALLOW, "1")
    assert torch.equal(open_tensors(tmp_path / "x.ckpt").read(["a"])["a"], TENSORS["a"])
    torch.save({"a": test_truncated_anywhere}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match=r"code\.ckpt: this pickled file cannot be read as weights"):
        open_tensors(tmp_path / "code.ckpt")
    with pytest.raises(FileExistsError):
        convert(tmp_path / "x.ckpt")
