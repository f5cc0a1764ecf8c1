"""The judge judged: by models whose pictures are known to be right or wrong."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toybox import evaluate as evaluation
from toybox import generator, tokenizer, vae
from toybox.captions import caption
from toybox.ddim import Diffuser
from toybox.evaluate import SEEDS, Bench, attention, one_object, psnr, tokens_of, two_objects, untrained
from toybox.export import export
from toybox.gates import Gate
from toybox.probe import Probe, ProbeNet
from toybox.scenes import Scene, render
from toybox.train_probe import FIRST_SEED
from toybox.vae import HELD_OUT_SEED


@dataclass
class Painter:
    """Stands for the model: renders the scene that a caption was made of, with or without a change."""

    scenes: dict[str, Scene] = field(default_factory=dict)
    change: dict[str, str] = field(default_factory=dict)

    def sample(self, texts: list[str], seeds: list[int], steps: int, guidance: float) -> Tensor:
        return render([self.scenes[text].replace(0, **self.change) for text in texts])[0]


def gates_of(measure, change: dict[str, str] | None = None, n: int = 48) -> dict[str, Gate]:
    painter = Painter(change=change or {})
    bench = Bench(painter, Probe.load(), n, 16)
    for name, objects, related in (("one", 1, False), ("two", 2, True)):
        for scene in bench.scenes(name, n, objects, related):
            painter.scenes |= {caption(scene, form=form).text: scene for form in ("placed", "related")}
    return {gate.name.split(": ")[1]: gate for gate in measure(bench)}


def test_right_pictures_pass() -> None:
    for measure in (one_object, two_objects):
        gates = gates_of(measure)
        assert all(gate.met for gate in gates.values()), [gate.line() for gate in gates.values()]


def test_a_wrong_shape_fails_the_shape_and_nothing_else() -> None:
    gates = gates_of(one_object, {"shape": "crescent"})
    assert gates["shape"].value == gates["all at once"].value == 0
    assert all(gates[name].met for name in ("color", "background_color", "position", "texture"))
    pair = gates_of(two_objects, {"shape": "crescent"})
    assert pair["each its colour and shape"].failed
    assert pair["exactly two"].met


def test_things_on_the_wrong_side_miss_the_relation() -> None:
    gates = gates_of(two_objects, {"position": "center"})
    assert gates["both where the caption puts them"].value < 0.5
    assert not gates["both where the caption puts them"].failed  # a goal


def test_held_out_things_are_noticed() -> None:
    @dataclass
    class Knowing(Painter):
        def sample(self, texts: list[str], seeds: list[int], steps: int, guidance: float) -> Tensor:
            from toybox.scenes import sample

            return render([sample(seed, 1, shape="arrow") for seed in seeds])[0]

    (gate,) = untrained(Bench(Knowing(), Probe.load(), 48, 16))
    assert gate.failed
    assert gate.n == 24
    assert gate.value > 0.9


def test_prompts_by_untrained_words_use_them_all() -> None:
    said: list[str] = []

    @dataclass
    class Listening(Painter):
        def sample(self, texts: list[str], seeds: list[int], steps: int, guidance: float) -> Tensor:
            said.extend(texts)
            return torch.zeros(len(texts), 128, 128, 3)

    untrained(Bench(Listening(), Probe(ProbeNet((8, 8), 16)), 256, 64))
    words = {word for text in said for word in text.split()}
    assert {*tokenizer.UNTRAINED, "crescent", "arrow", "zigzag"} <= words
    assert max(len(text.split()) for text in said) <= 30


def test_no_scene_was_trained_on() -> None:
    assert min(SEEDS.values()) >= HELD_OUT_SEED > FIRST_SEED + 1_000_000
    assert len({first // 100_000 for first in SEEDS.values()}) == len(SEEDS)


def test_pairs_stand_in_a_relation_and_other_seeds_give_other_scenes() -> None:
    bench = Bench(Painter(), None, 8, 8)
    pairs = bench.scenes("two", 8, 2, related=True)
    assert all(len(scene.objects) == 2 and scene.relation for scene in pairs)
    assert pairs == bench.scenes("two", 8, 2, related=True)
    assert not set(pairs) & set(Bench(Painter(), None, 8, 8, seed=1).scenes("two", 8, 2, related=True))


def test_decibels() -> None:
    a = torch.zeros(2, 4, 4, 3)
    assert psnr(a, a + torch.tensor([0.1, 0.01])[:, None, None, None]) == pytest.approx([20, 40], abs=1e-4)
    assert psnr(a, a) == [120, 120]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("miniature")
    export(generator.Generator(generator.MINIATURE, tokenizer.build()), vae.build(vae.MINIATURE), out)
    Probe(ProbeNet((8, 8), 16)).save(out / "probe")
    return out


def test_attention_that_lies_on_the_object_scores_full_marks(folder: Path) -> None:
    """A model whose map of every token is the mask of the object that the token's word speaks of."""
    model = Diffuser.load(folder)

    class Looking:
        def __getattr__(self, name: str) -> object:
            return getattr(model, name)

        def looked_at(self, x: Tensor, t: int, text: Tensor) -> Tensor:
            scenes = bench.scenes("attention", bench.n)
            maps = torch.zeros(len(scenes), model.tokenizer.model_max_length, 16, 16)
            small = torch.nn.functional.adaptive_avg_pool2d(render(scenes)[1], 16)
            for n, scene in enumerate(scenes):
                said = caption(scene)
                for start, end, k in said.words:
                    if isinstance(k, int):
                        maps[n, tokens_of(model, said.text, start, end)] = (small[n, k] > 0.5).float()
            return maps

    bench = Bench(Looking(), None, 6, 6)
    gate, loose = attention(bench)
    assert gate.value == loose.value == 1
    assert gate.n > 6


def test_the_command_reports_fails_and_writes_json(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "STEPS", 2)
    report = tmp_path / "gates.json"
    arguments = ["evaluate", "--weights", str(folder), "--n", "4", "--json", str(report), "--batch", "4"]
    monkeypatch.setattr("sys.argv", arguments)
    assert evaluation.main() == 1
    told, gates = capsys.readouterr().out, json.loads(report.read_text())
    assert len({gate["name"] for gate in gates}) == len(gates) >= 29
    assert all(gate["name"] in told for gate in gates)
    assert "FAILED" in told
    assert "95 % interval" in told
    assert {"name", "value", "n", "low", "high", "bound", "met"} <= set(gates[0])
    assert not next(gate for gate in gates if gate["name"].startswith("autoencoder"))["met"]


def test_meeting_every_gate_exits_with_zero(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toybox.gates import rate

    monkeypatch.setattr("sys.argv", ["evaluate", "--weights", str(folder)])
    monkeypatch.setattr(evaluation, "MEASUREMENTS", (lambda _: [rate("x", [True], 0.9), rate("y", [False], 0.9, goal=True)],))
    assert evaluation.main() == 0
