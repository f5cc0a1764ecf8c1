"""The command line against a running server: run there and fetch what comes out, look at the queue, cancel."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from graph_engine import Folders, NodeSpec, Workflow
from graph_engine.entry import Link
from server.client import Client
from server.exits import CANCELLED, DONE, FAILED
from server.settings import ClientSettings
from server.terminal import Viewer, viewer
from server.translate import Translation, files_in
from server.transport import Http

__all__ = ["cancel", "queue", "run_all", "run_there", "status", "waiting"]

_HOLDERS = 12  # lines for one worker
_UNWINDING = 20.0  # seconds that a cancelled run has to say that it has stopped


def run_all(
    documents: Iterable[tuple[str, Workflow]],
    specs: Mapping[str, NodeSpec],
    here: Folders,
    settings: ClientSettings,
    *,
    json: bool,
    debug: bool,
) -> int:
    """Run labelled workflows one after another on the server; the exit code: 0 done, 1 a node failed, 130 cancelled."""
    return asyncio.run(_run_all(documents, specs, here, settings, json, debug))


async def _run_all(
    documents: Iterable[tuple[str, Workflow]],
    specs: Mapping[str, NodeSpec],
    here: Folders,
    settings: ClientSettings,
    json: bool,
    debug: bool,
) -> int:
    notes, code, output = Console(stderr=True), DONE, here.places("output")[0]
    screen = viewer(json=json)
    async with Client(settings.server, token=settings.secret) as client:
        for label, workflow in documents:
            if label:
                notes.print(f"[bold]{escape(label)}[/]", highlight=False, soft_wrap=True)
            with screen:
                told = await run_there(client, workflow, specs, here, output, screen)
            if debug:
                for failure in told.failures:
                    notes.print("".join(failure.traceback), style="dim", markup=False, highlight=False)
            if told.status == "cancelled":
                return CANCELLED
            code = max(code, DONE if told.status == "success" else FAILED)
    return code


async def run_there(
    client: Client, workflow: Workflow, specs: Mapping[str, NodeSpec], here: Folders, output: Path, screen: Viewer
) -> Translation:
    """Run a workflow on the server, show it as if it ran here, and put the files that it writes into `output`.

    Pictures that the workflow reads from the input folder here are uploaded first. When this task is cancelled, so is the run. Raises
    WorkflowError when the server finds the workflow not valid, ConnectionError when it cannot be reached.
    """
    document = (await _uploaded(client.http, workflow, specs, here)).to_json()
    sinks = {id for id, node in workflow.nodes.items() if (spec := specs.get(node.class_type)) is not None and spec.output}
    run = await client.submit(document)
    told = Translation(run, document, sinks)
    try:
        await _watch(client, told, output, screen)
    except asyncio.CancelledError:
        await client.cancel(run)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_UNWINDING):
                await _watch(client, told, output, screen)
        told.status = "cancelled"
    return told


async def _watch(client: Client, told: Translation, output: Path, screen: Viewer) -> None:
    over: dict[str, Any] = {"type": "executing", "data": {"node": None, "prompt_id": told.run}}
    async for message in client.follow(told.run):
        if isinstance(message, bytes) or (message["type"] == "executing" and message["data"].get("node") is None):
            continue
        if message["type"] == "executed":
            for item in files_in(message["data"].get("output")):
                if item.get("type", "output") == "output":
                    where = (item["filename"], item.get("subfolder", ""), "output")
                    told.paths[where] = await client.http.download(item, output)
        for event in told.hear(message):
            screen.show(event)
    for event in told.hear(over):
        screen.show(event)


async def _uploaded(http: Http, workflow: Workflow, specs: Mapping[str, NodeSpec], here: Folders) -> Workflow:
    for id, node in [*workflow.nodes.items()]:
        for entry in specs[node.class_type].inputs if node.class_type in specs else ():
            name = node.inputs.get(entry.name)
            if entry.folder != "input" or not isinstance(name, str) or isinstance(name, Link) or name in entry.embedded:
                continue
            if (path := here.find("input", name)) is not None:
                stored = await http.upload(path, name.rpartition("/")[0])
                workflow = workflow if stored == name else workflow.replace(id, entry.name, stored)
    return workflow


async def status(http: Http, console: Console) -> None:
    """Print what the server is, who holds its memory, and how long its queue is."""
    system, memory, queue = await asyncio.gather(http.get("/system_stats"), http.get("/memory"), http.get("/queue"))
    facts = system["system"]
    console.print(
        f"[bold]{escape(http.url)}[/] latentgraph {escape(str(facts.get('latentgraph_version', '')))}, python "
        f"{escape(facts['python_version'])}, torch {escape(facts.get('pytorch_version', ''))}",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"{len(queue['queue_running'])} running, {len(queue['queue_pending'])} waiting", highlight=False)
    table = Table("worker", "state", "pid", "resident", "budget", "used", box=None, pad_edge=False)
    for worker in memory["workers"]:
        sizes = (worker.get(name) for name in ("resident_bytes", "budget_bytes", "used_bytes"))
        table.add_row(escape(worker["name"]), worker["state"], str(worker.get("pid") or ""), *map(_size, sizes))
    console.print(table)
    held = Table("held by", "worker", "size", box=None, pad_edge=False)
    for worker in memory["workers"]:
        for holder in sorted(worker["residents"], key=lambda holder: -holder["bytes"])[:_HOLDERS]:
            held.add_row(escape(holder["owner"]), escape(worker["name"]), _size(holder["bytes"]))
    if held.rows:
        console.print()
        console.print(held)


async def queue(http: Http, console: Console) -> None:
    """Print the runs that run and wait, in order."""
    found = await http.get("/jobs", status="in_progress,pending", limit=1000, sort_order="asc")
    order = {row[1]: place for place, row in enumerate((await http.get("/queue"))["queue_pending"], 1)}
    if not found["jobs"]:
        console.print("nothing runs or waits")
        return
    table = Table("", Column("id", no_wrap=True, min_width=36), "state", "priority", "since", box=None, pad_edge=False)
    for job in sorted(found["jobs"], key=lambda job: order.get(job["id"], 0)):
        since = job.get("execution_start_time") or job["create_time"]
        state = "running" if job["status"] == "in_progress" else "waiting"
        table.add_row(
            str(order.get(job["id"], "")),
            job["id"],
            state,
            f"{job.get('priority', 0):g}",
            f"{max(0.0, time.time() - since / 1000):.0f} s ago",
        )
    console.print(table)


async def waiting(http: Http) -> list[str]:
    """The ids of all runs that run or wait."""
    found = await http.get("/queue")
    return [row[1] for row in (*found["queue_pending"], *found["queue_running"])]


async def cancel(http: Http, ids: Iterable[str], console: Console) -> bool:
    """Cancel runs by id; whether every one of them was there."""
    every = True
    for id in ids:
        there = bool((await http.post(f"/jobs/{id}/cancel"))["cancelled"])
        every &= there
        console.print(f"[green]✓[/] {id} cancelled" if there else f"[red]✗[/] no run {escape(id)} runs or waits", highlight=False)
    return every


def _size(value: object) -> str:
    return f"{value / 2**20:.1f} MiB" if isinstance(value, (int, float)) else ""
