"""A client against a whole server: runs, what is not valid, broken connections, cancelling, and files."""

import asyncio
import threading
import time

import picture_nodes
import pytest
from running import running
from watcher import single, writing

from graph_engine import Folders, Workflow, WorkflowError
from graph_engine.events import NodeDone, NodeFailed, RunDone
from server.client import Client
from server.confine import BadName
from server.remote import run_there
from server.translate import Translation
from server.transport import Http, Refused


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home")) as there:
        yield there


class Screen:
    def __init__(self):
        self.events = []
        self.seen = threading.Event()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def show(self, event):
        self.events.append(event)
        self.seen.set()

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


async def there(server, document, folder, **options):
    screen = Screen()
    async with Client(server.url) as client:
        told = await run_there(client, Workflow.from_json(document), {}, Folders(folder), folder / "out", screen, **options)
    return told, screen


def test_what_a_run_writes_is_fetched_and_told_as_if_it_ran_here(server, tmp_path):
    document = {**single("Pixel", red=7, filename_prefix="deep/er/red"), "2": {"class_type": "Word", "inputs": {"text": "unused"}}}
    told, screen = asyncio.run(there(server, document, tmp_path))
    (path,) = (tmp_path / "out").rglob("*.png")
    assert path.read_bytes() == picture_nodes.png(7)
    assert path == tmp_path / "out" / "deep" / "er" / "red_00001_.png"
    (done,) = screen.of(NodeDone)
    assert [artifact.path for artifact in done.artifacts] == [str(path)]
    assert told.status == "success"
    assert screen.events[-1] is screen.of(RunDone)[0]


def test_the_same_file_is_not_fetched_twice_but_another_keeps_its_name(server, tmp_path):
    out = tmp_path / "out"
    for red in (1, 1, 2):
        asyncio.run(there(server, single("Pixel", red=red, filename_prefix=f"same{red}"), tmp_path))
    assert len([*out.iterdir()]) == 2
    (out / "same1_00001_.png").write_bytes(b"mine")
    asyncio.run(there(server, single("Pixel", red=1, filename_prefix="same1"), tmp_path))
    assert (out / "same1_00001_.png").read_bytes() == b"mine"
    assert (out / "same1_00001_ (2).png").read_bytes() == picture_nodes.png(1)


def test_a_failing_node_is_named_with_its_words(server, tmp_path):
    told, screen = asyncio.run(there(server, single("Die", how="raise"), tmp_path))
    (failed,) = screen.of(NodeFailed)
    assert (failed.node, failed.class_type) == ("1", "Die")
    assert "not today" in failed.message
    assert told.status == "error"


def test_every_problem_of_a_workflow_comes_back_as_a_problem(server, tmp_path):
    wrong = {
        "1": {"class_type": "Wait", "inputs": {"steps": "many", "seconds": [1, 2, 3]}, "_meta": {"title": "Patience"}},
        "2": {"class_type": "Write", "inputs": {}},
    }
    with pytest.raises(WorkflowError) as caught:
        asyncio.run(there(server, wrong, tmp_path))
    found = {(problem.node, problem.field) for problem in caught.value.problems}
    assert {("1", "steps"), ("2", "text")} <= found
    assert any(problem.title == "Patience" for problem in caught.value.problems)

    with pytest.raises(WorkflowError, match="Nonsense"):
        asyncio.run(there(server, single("Nonsense"), tmp_path))


def test_a_connection_that_breaks_loses_nothing(server):
    async def follow():
        screen = Screen()
        async with Client(server.url) as client:
            document = {**single("Wait", seconds=1.0, steps=20), **{str(n): {"class_type": "Word", "inputs": {}} for n in range(2, 5)}}
            document["5"] = {"class_type": "Write", "inputs": {"text": ["4", 0]}}
            run = await client.submit(document)
            told, count = Translation(run, document), 0
            async for message in client.follow(run):
                count += 1
                if count in (2, 5, 9):
                    client._socket.transport.abort()  # as when the network goes away
                if isinstance(message, dict):
                    for event in told.hear(message):
                        screen.show(event)
        return screen

    screen = asyncio.run(asyncio.wait_for(follow(), 30))
    assert sorted(event.node for event in screen.of(NodeDone)) == ["1", "4", "5"]
    assert [event.status for event in screen.of(RunDone)] == ["success"]


def test_the_end_is_found_when_it_came_while_nobody_listened(server):
    async def follow():
        async with Client(server.url) as client:
            run = await client.submit(writing("away"))
            client._socket.transport.abort()
            await asyncio.to_thread(server.end_of, run)
            return [message["type"] async for message in client.follow(run) if isinstance(message, dict)]

    types = asyncio.run(asyncio.wait_for(follow(), 30))
    assert types.count("execution_success") == 1


def test_a_run_that_the_server_does_not_know_is_an_error_after_a_break(server):
    async def follow():
        async with Client(server.url) as client:
            client._socket.transport.abort()
            return [message async for message in client.follow("no-such-run")]

    with pytest.raises(ConnectionError, match="no-such-run"):
        asyncio.run(asyncio.wait_for(follow(), 30))


def test_cancelling_the_caller_cancels_the_run_there(server, tmp_path):
    async def begin_and_stop():
        screen = Screen()
        async with Client(server.url) as client:
            workflow = Workflow.from_json(single("Wait", seconds=60.0, steps=600))
            task = asyncio.create_task(run_there(client, workflow, {}, Folders(tmp_path), tmp_path, screen))
            await asyncio.to_thread(screen.seen.wait, 20)
            task.cancel()
            return await task, screen

    before = time.monotonic()
    told, screen = asyncio.run(asyncio.wait_for(begin_and_stop(), 40))
    assert told.status == "cancelled"
    assert [event.status for event in screen.of(RunDone)] == ["cancelled"]
    assert time.monotonic() - before < 40
    assert server.ask("GET", "/queue")[1] == {"queue_running": [], "queue_pending": []}


def test_nobody_there_is_one_clear_error():
    async def connect():
        async with Client("127.0.0.1:9"):
            pass

    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9"):
        asyncio.run(connect())


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "//"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="not the address of a server"):
        Http(url)


def test_an_error_of_the_server_says_its_words(server):
    with pytest.raises(Refused, match="404") as caught:
        asyncio.run(Http(server.url).get("/jobs/none"))
    assert caught.value.status == 404


def test_an_upload_keeps_its_name_or_gets_a_new_one(server, tmp_path):
    http, file = Http(server.url), tmp_path / 'a "b".png'
    file.write_bytes(picture_nodes.png(1))
    first = asyncio.run(http.upload(file, "sub"))
    assert asyncio.run(http.upload(file, "sub")) == first
    file.write_bytes(picture_nodes.png(2))
    assert asyncio.run(http.upload(file, "sub")) != first
    assert len([*(server.home / "input" / "sub").iterdir()]) == 2


@pytest.mark.parametrize("filename", ["../out.png", "/etc/passwd", "a/../../b.png", "..\\b.png"])
def test_a_server_cannot_write_outside_of_the_folder(server, tmp_path, filename):
    with pytest.raises(BadName):
        asyncio.run(Http(server.url).download({"filename": filename, "subfolder": "", "type": "output"}, tmp_path / "out"))
    assert [*tmp_path.iterdir()] == []
