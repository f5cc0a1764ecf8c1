"""Small graphs in the editor's saved format, and the definitions of the nodes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SUBGRAPH = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))
DEFINITIONS: dict[str, Any] = RECORDED["definitions"]


def node(id: Any, type: str, values: Any = None, inputs: Any = (), outputs: Any = (), **more: Any) -> dict[str, Any]:
    """`inputs` are (name, type) or (name, type, "widget")."""
    sockets = [{"name": name, "type": kind, "link": None, **({"widget": {"name": name}} if rest else {})} for name, kind, *rest in inputs]
    made = {"id": id, "type": type, "mode": 0, "inputs": sockets, "outputs": [{"name": each, "type": each} for each in outputs], **more}
    return made if values is None else {**made, "widgets_values": values}


def source(id: Any = 1, **more: Any) -> dict[str, Any]:
    return node(id, "LabSource", ["t", 7, "fixed", "c"], outputs=["IMAGE", "LATENT"], **more)


def filter_(id: Any = 2, **more: Any) -> dict[str, Any]:
    return node(id, "LabFilter", [0.25, False, "x"], [("image", "IMAGE"), ("mask", "MASK")], ["IMAGE"], **more)


def save(id: Any = 3, **more: Any) -> dict[str, Any]:
    return node(id, "LabSave", ["out"], [("images", "IMAGE")], **more)


def graph(nodes: list[dict[str, Any]], *links: tuple[Any, int, Any, int], **more: Any) -> dict[str, Any]:
    return {"nodes": nodes, "links": [[at + 1, *link, "*"] for at, link in enumerate(links)], "version": 0.4, **more}


def subgraph(
    nodes: list[dict[str, Any]], *links: tuple[Any, int, Any, int], inputs: Any = (), outputs: Any = (), id: str = SUBGRAPH
) -> dict[str, Any]:
    rows = [
        {"id": at + 1, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": into, "type": "*"}
        for at, (origin, slot, target, into) in enumerate(links)
    ]
    ends = [
        [
            {"name": name, "type": type, "linkIds": [row["id"] for row in rows if row[f"{side}_id"] == end and row[f"{side}_slot"] == at]}
            for at, (name, type) in enumerate(declared)
        ]
        for declared, side, end in ((inputs, "origin", -10), (outputs, "target", -20))
    ]
    return {"id": id, "name": "Inner", "version": 1, "nodes": nodes, "links": rows, "inputs": ends[0], "outputs": ends[1]}
