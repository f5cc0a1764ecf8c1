"""What a run looks like: JSON lines that can be read back, and a screen that tells names, files and errors."""

import io

from rich.console import Console

from graph_engine.events import (
    Artifact,
    NodeCached,
    NodeDone,
    NodeFailed,
    NodePreview,
    NodeProgress,
    NodeStarted,
    RunDone,
    RunStarted,
    event_from_json,
)
from graph_engine.spec import Problem
from server.terminal import JsonLines, Live, print_problems

PICTURE = Artifact(path="/home/me/output/x_00001_.png", filename="x_00001_.png", media="image/png")
EVENTS = [
    RunStarted(run="r", seq=1, nodes=("1", "2"), titles={"1": "Sampler [big]", "2": "Save"}),
    NodeStarted(run="r", seq=2, node="1", parent="1"),
    NodeProgress(run="r", seq=3, node="1", parent="1", step=3, steps=20, rate=0.5),
    NodePreview(run="r", seq=4, node="1", parent="1", data=b"\xff\xd8"),
    NodeDone(run="r", seq=5, node="1", parent="1", seconds=1.5, bytes=10),
    NodeCached(run="r", seq=6, node="2", parent="2", artifacts=(PICTURE,), ui={"text": ["PSNR 30"]}),
    RunDone(run="r", seq=7, status="success", seconds=2, executed=1, cached=1, artifacts=(PICTURE,)),
]


def test_json_lines_read_back_as_the_same_events_and_files_and_texts_are_in_words():
    out, notes = io.StringIO(), io.StringIO()
    with JsonLines(out, notes) as screen:
        for event in EVENTS:
            screen.show(event)
    lines = [event_from_json(line) for line in out.getvalue().splitlines()]
    assert lines == [event for event in EVENTS if not isinstance(event, NodePreview)]
    assert notes.getvalue() == f"saved {PICTURE.path}\n    PSNR 30\n"


def test_a_preview_survives_the_journal():
    preview = EVENTS[3]
    assert event_from_json(preview.model_dump_json()) == preview


def show(*events):
    console = Console(file=io.StringIO(), width=200)
    with Live(console) as screen:
        for event in events:
            screen.show(event)
    assert not screen.bars
    return console.file.getvalue()


def test_the_screen_names_nodes_by_title_and_prints_files_and_texts():
    text = show(*EVENTS)
    for part in ("Sampler [big]", "1.50 s", "cached", PICTURE.path, "PSNR 30", "success", "1 run, 1 cached"):
        assert part in text


def test_a_failure_shows_message_and_inputs():
    failed = NodeFailed(
        run="r", node="1", parent="1", reason="error", title="T", class_type="C", message="no [such] file", inputs={"image": "x.png"}
    )
    text = show(EVENTS[0], EVENTS[1], failed, RunDone(run="r", status="error", seconds=0, executed=0, cached=0))
    assert "no [such] file" in text
    assert "image = x.png" in text


def test_problems_tell_place_wanted_and_hint():
    console = Console(file=io.StringIO(), width=200)
    print_problems(
        [
            Problem(
                code="value_not_in_list",
                message="'eular' is not one of the choices",
                node="3",
                title="Sampler",
                field="sampler_name",
                wanted=["euler", "heun"],
                hint="did you mean 'euler'?",
            )
        ],
        console,
    )
    text = console.file.getvalue()
    for part in ("3 Sampler.sampler_name", "'eular'", "euler, heun", "did you mean"):
        assert part in text
