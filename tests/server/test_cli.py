"""The command as a user meets it: what it prints, what it writes, what it exits with, and what it never imports."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "error::DeprecationWarning:server", "-c", "from server.cli import main; main()"]
WITHOUT_TORCH = [
    sys.executable,
    "-c",
    "import sys, atexit\n"
    "heavy = {'torch', 'diffusers', 'transformers', 'nodes', 'diffusion'}\n"
    "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
    "from server.cli import main; main()",
]
TINY = {
    "model": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "toybox"}},
    "words": {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["model", 1], "text": "a red star on a blue background"},
        "_meta": {"title": "prompt"},
    },
    "none": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["model", 1], "text": ""}},
    "canvas": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "sample": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["model", 0], "positive": ["words", 0], "negative": ["none", 0], "latent_image": ["canvas", 0],
            "seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        },
    },
    "pixels": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["model", 2]}},
    "save": {"class_type": "SaveImage", "inputs": {"images": ["pixels", 0], "filename_prefix": "tiny"}},
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTGRAPH_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return tmp_path


def call(*arguments, home, command=COMMAND):
    return subprocess.run([*command, *map(str, arguments)], cwd=home, capture_output=True, text=True, timeout=240)


def events(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def nodes_of(done, kind):
    return {event["node"] for event in events(done) if event["kind"] == kind}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["nodes"], ["nodes", "KSampler"], ["schema"], ["validate", "tiny.json"], ["run", "--help"]]
)
def test_what_needs_only_the_declarations_imports_neither_torch_nor_nodes(home, arguments):
    done = call(*arguments, home=home, command=WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "HEAVY []"
    assert done.stdout.strip()


def test_help_documents_the_exit_codes(home):
    text = call("--help", home=home).stdout
    assert "0 done" in text
    assert "130 cancelled" in text


def test_a_run_writes_the_picture_and_the_second_one_in_a_new_process_is_all_cached(home):
    first = call("run", "tiny.json", "--cache-dir", "kept", home=home)
    assert first.returncode == 0, first.stderr
    assert nodes_of(first, "node_done") == set(TINY)
    (picture,) = (home / "output").glob("*.png")
    assert f"saved {picture}" in first.stderr
    again = call("run", "tiny.json", "--cache-dir", "kept", home=home)
    assert nodes_of(again, "node_cached") == set(TINY)
    assert nodes_of(again, "node_started") == set()
    assert [*(home / "output").glob("*.png")] == [picture]

    other = call("run", "tiny.json", "--cache-dir", "kept", "--set", "sample.seed=2", home=home)
    assert other.returncode == 0, other.stderr
    assert nodes_of(other, "node_started") == {"sample", "pixels", "save"}
    assert nodes_of(other, "node_cached") >= {"model", "words", "none", "canvas"}


def test_a_saved_picture_reproduces_its_own_pixels(home):
    assert call("run", "tiny.json", "--set", "prompt.text=a green ring", home=home).returncode == 0
    (picture,) = (home / "output").glob("*.png")
    again = call("run", picture, "-o", home / "elsewhere", home=home)
    assert again.returncode == 0, again.stderr
    (copy,) = (home / "elsewhere").glob("*.png")
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(copy)))
    assert json.loads(Image.open(copy).text["prompt"])["words"]["inputs"]["text"] == "a green ring"


def test_a_sweep_runs_every_combination_and_shares_what_is_common(home):
    done = call("run", "tiny.json", "--sweep", "sample.seed=1,2", "--sweep", "sample.steps=1,2", home=home)
    assert done.returncode == 0, done.stderr
    assert len([*(home / "output").glob("*.png")]) == 4
    started = [event["node"] for event in events(done) if event["kind"] == "node_started"]
    assert started.count("sample") == 4
    assert started.count("words") == 1


def test_five_mistakes_are_listed_at_once_with_hints(home):
    wrong = json.loads(json.dumps(TINY))
    wrong["sample"]["inputs"] |= {"sampler_name": "eular", "steps": 0, "latent_image": ["words", 0]}
    del wrong["pixels"]["inputs"]["vae"]
    wrong["save"]["class_type"] = "SaveImages"
    (home / "wrong.json").write_text(json.dumps(wrong))
    for command in ("validate", "run"):
        done = call(command, "wrong.json", home=home)
        assert done.returncode == 3
        for part in ("eular", "'euler'", "steps", "latent_image", "LATENT", "vae", "SaveImages", "'SaveImage'"):
            assert part in done.stderr, part
    assert not (home / "output").exists() or not [*(home / "output").iterdir()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nothing.json"], "nothing.json"),
        (["run", "tiny.json", "--set", "sample.sead=3"], "seed"),
        (["run", "tiny.json", "--set", "sample"], "node.input=value"),
        (["run", "broken.json"], "broken.json"),
        (["nodes", "KSampel"], "KSampler"),
        (["run", "tiny.json", "--nonsense"], "nonsense"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_clear_line(home, arguments, words):
    (home / "broken.json").write_text('{"1": ')
    done = call(*arguments, home=home)
    assert done.returncode in (2, 3)
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_nodes_are_found_by_a_word_of_their_names(home):
    done = call("nodes", "CONTROLNET", home=home)
    assert done.returncode == 0
    assert {"ControlNetLoader", "ControlNetApplyAdvanced"} <= set(done.stdout.split())
    assert "KSampler" not in done.stdout.split()
    found = json.loads(call("nodes", "t2i adapter", "--json", home=home).stdout)  # what it is also looked for as
    assert "ControlNetLoader" in [spec["type"] for spec in found]


def test_a_failing_node_is_named_and_the_exit_code_tells(home):
    wrong = json.loads(json.dumps(TINY)) | {"load": {"class_type": "LoadImage", "inputs": {"image": "bad.png"}}}
    wrong["save2"] = {"class_type": "SaveImage", "inputs": {"images": ["load", 0], "filename_prefix": "other"}}
    (home / "input").mkdir()
    (home / "input" / "bad.png").write_bytes(b"<html>not found</html>")
    (home / "wrong.json").write_text(json.dumps(wrong))
    done = call("run", "wrong.json", home=home)
    assert done.returncode == 1
    (failed,) = [event for event in events(done) if event["kind"] == "node_failed"]
    assert failed["node"] == "load"
    assert "bad.png" in failed["message"]
    assert len([*(home / "output").glob("tiny*.png")]) == 1, "an independent branch still finishes"


def test_ctrl_c_cancels_cleanly(home):
    process = subprocess.Popen(
        [*COMMAND, "run", "tiny.json", "--set", "sample.steps=1000"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a parent in the background may have had it ignored
    )
    for line in process.stdout:
        if json.loads(line)["kind"] == "node_progress":
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest, notes = process.communicate(timeout=60)
    assert process.returncode == 130, notes
    assert json.loads(rest.splitlines()[-1])["status"] == "cancelled"
    assert "Traceback" not in notes
    assert not [*(home / "output").glob("*")] if (home / "output").exists() else True


def test_the_doctor_finds_versions_device_and_the_embedded_model(home):
    done = call("doctor", home=home)
    assert done.returncode == 0, done.stderr + done.stdout
    for part in ("torch", "cpu", "toybox", "node types"):
        assert part in done.stdout


def test_pickled_files_are_read_only_with_the_option(home):
    torch = pytest.importorskip("torch")
    (home / "models/embeddings").mkdir(parents=True)
    torch.save({"string_to_param": {"*": torch.ones(1, 64)}}, home / "models/embeddings/word.pt")
    asked = {**TINY, "words": {**TINY["words"], "inputs": {"clip": ["model", 1], "text": "a embedding:word star"}}}
    (home / "tiny.json").write_text(json.dumps(asked))
    refused = call("run", "tiny.json", "--json", home=home)
    assert refused.returncode != 0
    assert "--allow-pickle" in refused.stdout + refused.stderr
    assert "python -m diffusion.convert word.pt" in refused.stdout + refused.stderr
    assert call("run", "tiny.json", "--json", "--allow-pickle", home=home).returncode == 0
