"""Rows made from the journal's texts are the same JSON as rows made from the run."""

from __future__ import annotations

import json

from server.journal import Journal
from server.protocol.shapes import detail, history_entry, job, queue_row
from server.runs import NewRun, Run


def test_texts_and_values_agree():
    journal = Journal(None)
    document = {"1": {"class_type": "Größe", "inputs": {"x": 'a"b\n'}}}
    journal.submit(NewRun("r", document, ("1",), {"a": [1]}, "me", number=2.5))
    journal.start("r", "cpu")
    journal.finish("r", "error", {"1": {"text": ["é"]}}, {"1": {}}, [["execution_start", {}]], {"node_id": None, "traceback": None})
    lazy = journal.get("r")
    assert lazy is not None
    plain = Run("r", 2.5, "error", document, ("1",), {"a": [1]}, "me", lazy.created, lazy.started, lazy.finished)
    plain.outputs, plain.meta, plain.messages, plain.error = lazy.outputs, lazy.meta, lazy.messages, lazy.error
    assert json.loads(queue_row(lazy)) == json.loads(queue_row(plain)) == [2.5, "r", document, {"a": [1]}, ["1"]]
    assert json.loads(history_entry(lazy)) == json.loads(history_entry(plain))
    assert detail(lazy) == detail(plain)
    error = job(lazy)["execution_error"]
    assert (error["node_id"], error["traceback"], error["exception_message"]) == ("", [], "")
