"""Whatever is sent, the server answers what it promises: no 5xx, no hang, no traceback."""

import asyncio
import json
import logging
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import SPECS, running
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from server.openapi import document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home"), queue_limit=20, log_level="warning") as there:
        yield there


@pytest.fixture(autouse=True)
def nothing_was_logged_as_an_error(caplog):
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_operation_answers_as_described(case, server):
    case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=20)


NAMES = st.sampled_from([*SPECS.specs, "Nonsense", "", "__init__"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
IDS = st.sampled_from(["1", "2", "3", "a:b", "", "\ud800", "__proto__"])
LINKS = st.tuples(IDS, st.integers(-1, 3)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": NAMES | JSON,
        "inputs": st.dictionaries(st.sampled_from(["text", "a", "b", "n", "steps", "x"]), LINKS | JSON, max_size=4) | JSON,
    }
)
PROMPTS = st.dictionaries(IDS, NODES | JSON, max_size=4) | JSON
EDITOR = st.fixed_dictionaries(
    {
        "nodes": st.lists(
            st.fixed_dictionaries(
                {"id": st.integers(0, 3) | IDS, "type": NAMES | st.just("Reroute")},
                optional={"inputs": JSON, "outputs": JSON, "widgets_values": JSON, "mode": st.integers(-1, 5), "properties": JSON},
            )
            | JSON,
            max_size=3,
        ),
        "links": st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=6) | JSON, max_size=3) | JSON,
    },
    optional={"definitions": JSON, "extra": JSON, "groups": JSON},
)
BODIES = st.fixed_dictionaries(
    {"prompt": PROMPTS | EDITOR},
    optional={"client_id": JSON, "prompt_id": JSON, "number": JSON, "front": JSON, "extra_data": JSON, "partial_execution_targets": JSON},
)


def sent(server, body):
    status, answer = server.ask("POST", "/prompt", body)
    assert status in (200, 400, 413, 429), (status, answer)
    assert isinstance(answer, dict), answer
    assert "Traceback" not in json.dumps({**answer, "node_errors": None})
    server.ask("POST", "/interrupt", {})
    server.ask("POST", "/queue", {"clear": True})


@given(body=BODIES)
@FEW
def test_any_workflow_is_run_or_refused_in_words(server, body):
    sent(server, json.dumps(body).encode())


@given(body=st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
@FEW
def test_any_body_is_run_or_refused_in_words(server, body):
    sent(server, body)


@pytest.mark.parametrize("depth", [500, 5_000, 100_000])
def test_deep_nesting_is_refused_in_words(server, depth):
    sent(server, b'{"prompt":' + b"[" * depth + b"]" * depth + b"}")
    sent(server, b'{"prompt":{"1":{"class_type":"Word","inputs":{"text":' + b'{"a":' * depth + b"1" + b"}" * (depth + 3) + b"}")


FRAMES = st.lists(
    st.text(max_size=50)
    | st.binary(max_size=50)
    | JSON.map(json.dumps)
    | st.fixed_dictionaries({"type": st.sampled_from(["feature_flags", "status", "x"]) | JSON, "data": JSON}).map(json.dumps),
    max_size=6,
)


@given(frames=FRAMES)
@FEW
def test_a_socket_survives_whatever_is_said(server, frames):
    async def say():
        async with connect(server.url.replace("http", "ws") + "/ws?clientId=fuzz") as socket:
            assert json.loads(await socket.recv())["type"] == "status"
            for frame in frames:
                await socket.send(frame)
            await socket.send(json.dumps({"type": "feature_flags", "data": {}}))
            while json.loads(await asyncio.wait_for(socket.recv(), 10))["type"] != "feature_flags":
                continue

    asyncio.run(say())


async def drained(socket):
    while True:
        await socket.recv()


def test_a_message_that_is_too_long_closes_only_its_own_socket(server):
    async def shout():
        address = server.url.replace("http", "ws") + "/ws?clientId="
        async with connect(address + "loud") as loud, connect(address + "quiet") as quiet:
            await loud.send("x" * 70_000)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(drained(loud), 10)
            assert loud.close_code == 1009
            await quiet.send(json.dumps({"type": "feature_flags", "data": {}}))
            await asyncio.wait_for(quiet.recv(), 10)

    asyncio.run(shout())


@given(query=st.text(st.characters(codec="utf-8"), max_size=30))
@FEW
def test_any_query_opens_a_socket_or_is_refused(server, query):
    for name in ("clientId", "since"):
        status, _ = server.ask("GET", f"/ws?{name}={quote(query)}")
        assert status < 500
