"""The plain host as a device."""

from __future__ import annotations

from graph_engine.device import HostDevice, host_free, host_memory


def test_free_memory_is_some_of_all() -> None:
    assert 0 < host_free() <= host_memory()


def test_the_host_tells_what_it_is() -> None:
    facts = HostDevice().facts()
    assert (facts.name, facts.type, facts.total) == ("cpu", "cpu", host_memory())
    assert 0 < facts.free <= facts.total
