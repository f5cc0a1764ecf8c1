"""What the server costs around a run: its start, its memory, a trivial run, many small ones, long chains, and a crowd of slow readers.

Starts `latentgraph serve` in a new home, talks to it over HTTP and a WebSocket as a client would, and prints medians. A run is timed from
the moment that its POST is sent until `execution_success` has been read. Times include the client, which shares the processors. Chains are
of StringConcatenate, so that every node makes something new.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.sync.client import connect

Workflow = dict[str, Any]
clock = time.perf_counter
fresh = itertools.count(int(time.time()))
SIZES = (10, 100, 500, 1000)
# ComfyUI 0.8 on 2 cores, as published
COMFYUI = {
    "boot": "6.7 s",
    "memory": "500 MB",
    "trivial": "1.6 ms",
    "small runs a second": "490 - 710",
    "chain 100": "113 ms",
    "chain 500": "3.8 s, 50 MB",
    "chain 1000": "refused",
}


class Client:
    """One connection for requests and one for events."""

    def __init__(self, port: int) -> None:
        self.id = uuid.uuid4().hex
        self.http = http.client.HTTPConnection("127.0.0.1", port)
        self.http.connect()
        self.http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open = ExitStack()
        self.socket = self.open.enter_context(connect(f"ws://127.0.0.1:{port}/ws?clientId={self.id}", max_size=None, compression=None))
        self.bytes = 0

    def post(self, workflow: Workflow) -> str:
        self.http.request("POST", "/prompt", json.dumps({"prompt": workflow, "client_id": self.id}))
        answer = self.http.getresponse()
        said = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {said}")
        return str(said["prompt_id"])

    def until(self, ids: set[str]) -> None:
        """Read until all of these have succeeded."""
        while ids:
            text = self.socket.recv()
            self.bytes += len(text)
            message = json.loads(text) if isinstance(text, str) else {"type": "preview"}
            if message["type"] in ("execution_error", "execution_interrupted"):
                raise RuntimeError(message)
            if message["type"] == "execution_success":
                ids.discard(message["data"]["prompt_id"])

    def run(self, workflow: Workflow) -> tuple[float, int]:
        """Seconds and bytes read."""
        read, began = self.bytes, clock()
        self.until({self.post(workflow)})
        return clock() - began, self.bytes - read

    def close(self) -> None:
        self.open.close()
        self.http.close()


def chain(size: int, seed: int) -> Workflow:
    """So many nodes, one behind the other; `seed` makes all of them new."""
    nodes: Workflow = {"1": {"class_type": "PrimitiveString", "inputs": {"value": str(seed)}}}
    for i in range(2, size):
        nodes[str(i)] = {"class_type": "StringConcatenate", "inputs": {"string_a": [str(i - 1), 0], "string_b": "+", "delimiter": ""}}
    nodes[str(size)] = {"class_type": "PreviewAny", "inputs": {"source": [str(size - 1), 0]}}
    return nodes


@contextmanager
def server(home: Path) -> Iterator[tuple[int, int]]:
    """A server of its own: its port and process; prints how long it took to come up."""
    began = clock()
    command = [sys.executable, "-c", "from server.cli import main; main()", "serve", "--port", "0", "--log-level", "warning"]
    said = home / "said"
    with said.open("w") as out, subprocess.Popen([*command, "--home", str(home)], stderr=out) as process:
        try:
            while (found := re.search(r"latentgraph is at \S+:(\d+)/", said.read_text())) is None:
                if process.poll() is not None:
                    raise RuntimeError(f"the server did not start:\n{said.read_text()}")
                time.sleep(0.01)
            port = int(found[1])
            ask(port, "/system_stats")
            tell("boot to the first answer", f"{clock() - began:.2f} s", COMFYUI["boot"])
            while json.loads(ask(port, "/health"))["workers"] != ["idle"]:
                time.sleep(0.02)
            tell("boot to the first worker", f"{clock() - began:.2f} s")
            yield port, process.pid
        finally:
            process.terminate()


def ask(port: int, path: str) -> bytes:
    """The answer to a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    answer = connection.getresponse().read()
    connection.close()
    return answer


def throughput(port: int, clients: int, runs: int) -> float:
    """Small runs a second, submitted as fast as each client can."""
    crowd = [Client(port) for _ in range(clients)]
    work = [[chain(3, next(fresh)) for _ in range(runs // clients)] for _ in crowd]

    def submit(client: Client, workflows: list[Workflow]) -> None:
        client.until({client.post(workflow) for workflow in workflows})

    threads = [threading.Thread(target=submit, args=pair) for pair in zip(crowd, work, strict=True)]
    began = clock()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = clock() - began
    for client in crowd:
        client.close()
    return runs / spent


@contextmanager
def crowd(port: int, count: int) -> Iterator[None]:
    """So many further clients in a process of their own."""
    command = [sys.executable, __file__, "--crowd", str(count), "--join", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        if process.stdout.readline() != b"joined\n":
            raise RuntimeError("the crowd did not get in")
        yield
        process.stdin.close()


async def join(port: int, count: int) -> None:
    """Be the crowd until standard input ends: every second client never reads, the others read everything."""
    async with AsyncExitStack() as every:
        readers = []
        for i in range(count):
            connection = open_socket(f"ws://127.0.0.1:{port}/ws?clientId=crowd{i}", compression=None, max_queue=1, close_timeout=0)
            each = await every.enter_async_context(connection)
            if i % 2 == 0:
                readers.append(asyncio.create_task(drain(each)))
        print("joined", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for reader in readers:
            reader.cancel()


async def drain(each: ClientConnection) -> None:
    async for _ in each:
        pass


def resident(pid: int) -> float:
    """Megabytes of memory that the process occupies."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def tell(what: str, value: str, other: str = "") -> None:
    print(f"{what:42} {value:>24}   {other}", flush=True)


def median(measure: Callable[[], tuple[float, int]], times: int) -> tuple[float, int]:
    """Of several runs: seconds and bytes."""
    found = [measure() for _ in range(times)]
    return statistics.median(seconds for seconds, _ in found), int(statistics.median(count for _, count in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    parser.add_argument("--small", type=int, default=400, help="small runs for the throughput")
    parser.add_argument("--crowd", type=int, default=200, help="further clients")
    parser.add_argument("--join", type=int, help=argparse.SUPPRESS)  # the port that this process is to crowd
    given = parser.parse_args()
    if given.join is not None:
        asyncio.run(join(given.join, given.crowd))
        return
    tell("", "latentgraph", "ComfyUI 0.8")
    with tempfile.TemporaryDirectory(prefix="latentgraph-") as folder, server(Path(folder)) as (port, pid):
        tell("memory of the server", f"{resident(pid):.0f} MB", COMFYUI["memory"])
        client = Client(port)
        median(lambda: client.run(chain(3, next(fresh))), 10)
        seconds, _ = median(lambda: client.run(chain(2, next(fresh))), 10 * given.runs)
        tell("trivial run (2 nodes)", f"{seconds * 1e3:.2f} ms", COMFYUI["trivial"])
        for clients in (1, 8):
            rate = throughput(port, clients, given.small)
            tell(f"small runs a second, {clients} client{'s' * (clients > 1)}", f"{rate:.0f}", COMFYUI["small runs a second"])
        for size in SIZES:
            seconds, count = median(lambda size=size: client.run(chain(size, next(fresh))), given.runs)  # type: ignore[misc]
            told = f"{seconds * 1e3:.0f} ms, {count / size:.0f} B/node"
            tell(f"chain of {size} nodes", told, COMFYUI.get(f"chain {size}", ""))
            same = chain(size, next(fresh))
            client.run(same)
            seconds, _ = median(lambda same=same: client.run(same), given.runs)  # type: ignore[misc]
            tell(f"chain of {size} nodes, unchanged", f"{seconds * 1e3:.0f} ms")
        alone, _ = median(lambda: client.run(chain(100, next(fresh))), 4 * given.runs)
        with crowd(port, given.crowd):
            among, _ = median(lambda: client.run(chain(100, next(fresh))), 4 * given.runs)
        tell(f"chain of 100 among {given.crowd} clients, half deaf", f"{among / alone:.2f} times as long")
        tell("memory of the server, at the end", f"{resident(pid):.0f} MB")
        client.close()


if __name__ == "__main__":
    main()
