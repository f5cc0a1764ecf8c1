"""The WebSocket: greeting, order, reconnect, limits, previews, and clients that do not read."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from typing import Any

import pytest
from PIL import Image
from standing import Standing
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from told_nodes import doc

from server.previews import fitted
from server.protocol.messages import Message, Preview
from server.routes import socket

GOOD = doc(n=("Number", {"value": 3}), s=("Show", {"what": "@n"}))
FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


@pytest.fixture
def there(tmp_path):
    there = Standing(tmp_path)
    with there.client:  # one event loop for all
        yield there


def until(connection: Any, type: str) -> list[dict[str, Any]]:
    found = [connection.receive_json()]
    while found[-1]["type"] != type:
        found.append(connection.receive_json())
    return found


def picture(width: int, height: int, format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, format)
    return out.getvalue()


def test_a_run_from_the_greeting_to_its_end(there):
    with there.client.websocket_connect("/ws?clientId=me") as connection:
        hello = connection.receive_json()
        assert hello == {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}}
        connection.send_json(FLAGS)
        assert connection.receive_json()["data"]["supports_preview_metadata"] is True
        id = there.submit(GOOD, client_id="me")
        there.client.portal.call(there.dispatcher.step)
        found = until(connection, "execution_success")
        assert [each["type"] for each in found if each["type"] != "progress_state"] == [
            *("status", "execution_start", "execution_cached", "executing", "executing", "executed", "execution_success")
        ]
        end = [connection.receive_json() for _ in range(2)]
        assert [each["type"] for each in end] == ["status", "executing"]
        assert end[0]["data"]["status"]["exec_info"]["queue_remaining"] == 0
        assert end[1]["data"] == {"node": None, "prompt_id": id}
        assert id in there.get(f"/history/{id}")


def test_a_client_without_a_name_gets_one(there):
    with there.client.websocket_connect("/ws") as connection, there.client.websocket_connect("/ws?clientId=") as other:
        names = {each.receive_json()["data"]["sid"] for each in (connection, other)}
        assert len(names) == 2
        assert all(len(name) == 32 for name in names)


def test_a_client_that_reconnects_with_a_number_gets_the_rest(there):
    there.submit(GOOD, client_id="me")
    there.client.portal.call(there.dispatcher.step)
    with there.client.websocket_connect("/ws?clientId=me&since=0") as connection:
        everything = until(connection, "execution_success")[1:]
    numbers = [each["seq"] for each in everything]
    assert numbers == sorted(set(numbers))
    with there.client.websocket_connect(f"/ws?clientId=me&since={numbers[1]}") as connection:
        assert [each["seq"] for each in until(connection, "execution_success")[1:]] == numbers[2:]


@pytest.mark.parametrize(
    "query", ["since=x", "since=-1", "since=1.5", "since=99999999999999999999", "since=²", "clientId=" + "x" * 300, "clientId=%00"]
)
def test_a_malformed_address_is_refused(there, query):
    with pytest.raises(WebSocketDenialResponse) as raised, there.client.websocket_connect(f"/ws?{query}"):
        pass
    assert raised.value.status_code == 400
    assert there.hub.sockets == 0


def test_too_many_clients_are_refused(tmp_path):
    there = Standing(tmp_path, client_limit=1)
    with there.client:
        with there.client.websocket_connect("/ws?clientId=a") as connection:
            connection.receive_json()
            with pytest.raises(WebSocketDenialResponse) as raised, there.client.websocket_connect("/ws?clientId=b"):
                pass
            assert raised.value.status_code == 429
        with there.client.websocket_connect("/ws?clientId=b") as connection:
            connection.receive_json()


def test_noise_is_ignored_and_too_much_of_it_ends_the_connection(tmp_path):
    there = Standing(tmp_path, message_limit=1000)
    with there.client, there.client.websocket_connect("/ws?clientId=a") as connection:
        connection.receive_json()
        for text in ("", "{", "[1]", '{"type":5}', "x" * 1000):
            connection.send_text(text)
        connection.send_bytes(b"\x00\x01")
        connection.send_json(FLAGS)
        assert connection.receive_json()["type"] == "feature_flags"
        connection.send_text("x" * 1001)
        with pytest.raises(WebSocketDisconnect) as raised:
            connection.receive_json()
        assert raised.value.code == 1009


def test_previews_are_sent_in_the_frame_that_the_client_knows(there):
    small = Preview("r", "n", "n", None, "n", "image/jpeg", picture(64, 32))
    for name, flags in (("old", None), ("new", FLAGS)):
        with there.client.websocket_connect(f"/ws?clientId={name}") as connection:
            connection.receive_json()
            if flags:
                connection.send_json(flags)
                connection.receive_json()
            there.client.portal.call(there.hub.send, name, "r", [small])
            kind, second = struct.unpack(">II", (frame := connection.receive_bytes())[:8])
            assert kind == (4 if flags else 1)
            about = json.loads(frame[8 : 8 + second]) if flags else None
            assert about is None or (about["node_id"], about["prompt_id"], about["image_type"]) == ("n", "r", "image/jpeg")
            assert frame.endswith(small.data)


def test_a_preview_is_made_small_enough():
    big = fitted(Preview("r", "n", "n", None, "n", "image/png", picture(2000, 1000, "PNG")), 512)
    assert big is not None
    with Image.open(io.BytesIO(big.data)) as found:
        assert (found.format, found.size, big.media) == ("JPEG", (512, 256), "image/jpeg")
    webp = fitted(Preview("r", "n", "n", None, "n", "image/webp", picture(64, 64, "WEBP")), 512)
    assert webp is not None
    assert webp.media == "image/jpeg"
    as_it_is = Preview("r", "n", "n", None, "n", "image/jpeg", picture(512, 16))
    assert fitted(as_it_is, 512) is as_it_is
    assert fitted(Preview("r", "n", "n", None, "n", "image/jpeg", b"\xff\xd8no picture"), 512) is None


class Stuck:
    """A connection whose other side never reads."""

    async def send_text(self, text: str) -> None:
        await asyncio.Event().wait()

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError


def test_a_client_that_never_reads_is_let_go(tmp_path, monkeypatch):
    there = Standing(tmp_path)
    monkeypatch.setattr(socket, "_STALLED", 0.05)
    box = there.hub.open("me")
    there.hub.send("me", "r", [Message("execution_start", {"prompt_id": "r"})])
    connection: Any = Stuck()
    asyncio.run(socket._serve(connection, there.client.app.state.server, box))
    there.hub.close("me", box)
    assert there.hub.sockets == 0
    assert there.hub.open("me").handed == 0  # so it will be told again


def test_writing_much_to_one_client_leaves_others_their_turn(tmp_path):
    there = Standing(tmp_path)
    sent: list[str] = []

    class Fast:
        async def send_text(self, text: str) -> None:
            sent.append(text)

    async def write() -> int:
        box = there.hub.open("me")
        for i in range(500):
            there.hub.send("me", "r", [Message("executing", {"node": str(i)})])
        connection: Any = Fast()
        writing, turns = asyncio.create_task(socket._write(connection, box, 512)), 0
        while len(sent) < 501:
            await asyncio.sleep(0)
            turns += 1
        writing.cancel()
        return turns

    assert asyncio.run(write()) > 10
