"""Keys: the same for the same computation however it is written, another for any other."""

from __future__ import annotations

import pytest
from fakes import Blob, FakeDevice, Tensor
from running_nodes import registry

from graph_engine.device import HostDevice
from graph_engine.engine import Engine
from graph_engine.files import Folders
from graph_engine.keys import SMALL, constant_identity, environment_key, identify, node_key, nonce
from graph_engine.record import Record
from graph_engine.spec import NodeSpec
from graph_engine.workflow import Workflow

SPEC = NodeSpec(type="Thing", version=1)


def test_every_part_counts():
    made = [
        node_key(SPEC, {"a": 1}, {}, {}),
        node_key(SPEC, {"a": 1.0}, {}, {}),
        node_key(SPEC, {"a": True}, {}, {}),
        node_key(SPEC, {"a": "1"}, {}, {}),
        node_key(SPEC, {"b": 1}, {}, {}),
        node_key(SPEC, {}, {"a": "1"}, {}),
        node_key(SPEC, {}, {}, {"a": b"1"}),
        node_key(SPEC.model_copy(update={"version": 2}), {"a": 1}, {}, {}),
        node_key(SPEC.model_copy(update={"type": "Other"}), {"a": 1}, {}, {}),
    ]
    assert len(set(made)) == len(made)
    assert all(len(key) == 16 for key in made)


def test_the_order_of_inputs_does_not_count():
    assert node_key(SPEC, {"a": 1, "b": 2}, {}, {}) == node_key(SPEC, {"b": 2, "a": 1}, {}, {})


def test_keys_are_the_same_in_every_process():
    assert node_key(SPEC, {"a": 0.1}, {}, {}).hex() == "3a84891e3b40939061602e6e27160c96"


def test_small_outputs_are_known_by_their_content():
    one, two = nonce(), nonce()
    blob = Blob(Tensor(b"x" * 100))
    assert identify(one, (1, blob), 116, FakeDevice()) == identify(two, (1, blob), 116, FakeDevice())


def test_large_outputs_are_known_by_their_node_but_scalars_never():
    one, two = nonce(), nonce()
    large = Blob(Tensor(b"x" * (SMALL + 1)))
    a, b = (identify(key, (1, large), SMALL + 17, FakeDevice()) for key in (one, two))
    assert a[0] == b[0]
    assert a[1] != b[1]


def test_what_has_no_plain_form_is_known_by_its_node():
    key = nonce()
    assert identify(key, (object(), object()), 32, HostDevice(0)) == identify(key, (object(), object()), 32, HostDevice(0))
    assert len(set(identify(key, (object(), object()), 32, HostDevice(0)))) == 2


def test_a_constant_under_a_content_digest_is_that_content():
    digest = identify(nonce(), (5,), 16, HostDevice(0))[0]
    assert constant_identity(digest.hex()) == digest
    assert constant_identity("a name") != constant_identity("another name")


def test_an_environment_makes_another_key():
    key = nonce()
    assert environment_key(key, "torch 2.11") != environment_key(key, "torch 2.12")


def test_a_record_survives_being_written():
    record = Record((b"1" * 16,), 0.5, 10, ui={"text": ["a"]}, blocked=True, reason="why")
    assert Record.from_json(record.to_json()) == record


def run(document, folders=None, **options):
    with Engine(registry(), device=HostDevice(), folders=folders) as engine:
        result = engine.run(Workflow.from_json(document), **options)
        assert result.status == "success", result.failures
        return {id: key.hex() for id, key in result._keys.items()}


def test_ids_titles_and_the_order_of_nodes_do_not_count():
    first = {
        "1": {"class_type": "Number", "inputs": {"value": 3}},
        "2": {"class_type": "Add", "inputs": {"a": ["1", 0], "b": 2}},
        "3": {"class_type": "Show", "inputs": {"what": ["2", "INT"]}},
    }
    second = {
        "z": {"class_type": "Show", "inputs": {"what": ["y", 0]}},
        "y": {"class_type": "Add", "inputs": {"b": 2.0, "a": ["x", 0]}, "_meta": {"title": "plus"}},
        "x": {"class_type": "Number", "inputs": {"value": 3}},
    }
    assert sorted(run(first).values()) == sorted(run(second).values())


@pytest.mark.parametrize("inputs", [{"a": 1, "b": 1}, {"a": 1.0}, {"a": 1}])
def test_whole_floats_and_omitted_defaults_agree(inputs):
    document = {"1": {"class_type": "Add", "inputs": inputs}, "2": {"class_type": "Show", "inputs": {"what": ["1", 0]}}}
    plain = {"1": {"class_type": "Add", "inputs": {"b": 1, "a": 1}}, "2": {"class_type": "Show", "inputs": {"what": ["1", 0]}}}
    assert run(document) == run(plain)


def test_files_count_by_content(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "a.png").write_text("one")
    document = {"1": {"class_type": "ReadFile", "inputs": {"name": "a.png"}}, "2": {"class_type": "Show", "inputs": {"what": ["1", 0]}}}
    first = run(document, Folders(tmp_path))
    (folder / "a.png").touch()
    assert run(document, Folders(tmp_path)) == first
    (folder / "a.png").write_text("two")
    assert run(document, Folders(tmp_path))["1"] != first["1"]


def test_a_file_named_by_a_link_counts_by_content_too(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    (folder / "a.png").write_text("one")
    document = {
        "0": {"class_type": "Text", "inputs": {"text": "a.png"}},
        "1": {"class_type": "ReadFile", "inputs": {"name": ["0", 0]}},
        "2": {"class_type": "Show", "inputs": {"what": ["1", 0]}},
    }
    first = run(document, Folders(tmp_path))
    (folder / "a.png").write_text("two")
    second = run(document, Folders(tmp_path))
    assert second["0"] == first["0"]
    assert second["1"] != first["1"]
