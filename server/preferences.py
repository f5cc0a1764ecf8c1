"""The editor's settings: one JSON object in the user's folder, and what holds before anybody changed anything."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.writing import write

__all__ = ["DEFAULTS", "change", "load"]

DEFAULTS: Mapping[str, Any] = {
    "Comfy.Notification.ShowVersionUpdates": False,  # asks a server outside for the news of another program
    "LiteGraph.Canvas.MinFontSizeForLOD": 4,  # a graph that just fits a small window is still readable
}
_NAME = "comfy.settings.json"
_writing = threading.Lock()  # a change reads, then writes; the page sends several at a time
_log = logging.getLogger(__name__)


def load(user: Path) -> dict[str, Any]:
    """All settings by id. A file that is no JSON object is put aside as `….broken` and said in the log."""
    path = user / _NAME
    try:
        known = json.loads(path.read_bytes())
        if not isinstance(known, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        known = {}
    except (ValueError, RecursionError) as error:
        aside = path.with_suffix(".json.broken")
        path.replace(aside)
        _log.warning("the settings in %s cannot be read (%s); they are now in %s", path, error, aside)
        known = {}
    return {**DEFAULTS, **known}


def change(user: Path, values: Mapping[str, Any]) -> None:
    """Set some settings, keeping the others."""
    with _writing:
        write(user / _NAME, json.dumps({**load(user), **values}, indent=4).encode())
