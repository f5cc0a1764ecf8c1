"""A server process without HTTP, to be killed: runs what it reads as JSON lines, and prints the id of what it has accepted.

Arguments: home, number of workers, and `requeue` or nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from watcher import Watcher

from server.journal import Journal
from server.protocol.story import Story
from server.runs import NewRun
from server.workers import Dispatcher, WorkerOptions


async def main() -> None:
    home, workers, requeue = Path(sys.argv[1]), int(sys.argv[2]), "requeue" in sys.argv
    journal = Journal(home / "journal.sqlite")
    options = WorkerOptions(home=home, nodes=("work_nodes",), plain=True)
    dispatcher = Dispatcher(journal, Watcher(journal), Story, ["cpu"] * workers, options, requeue=requeue)
    await dispatcher.start()
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say("up")
    while line := await reader.readline():
        order = json.loads(line)
        if order["op"] == "submit":
            dispatcher.submit(NewRun(order["id"], order["document"], ("2",), client="me"))
            say(order["id"])
        elif order["op"] == "pids":
            say(json.dumps([worker.pid for worker in dispatcher.workers if worker.pid is not None]))
        elif order["op"] == "counts":
            say(json.dumps(journal.counts()))
    await dispatcher.close(0)
    journal.close()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


asyncio.run(main())
