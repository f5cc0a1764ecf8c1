from importlib import metadata

from server.machine import free_memory, version


def test_versions_are_those_of_what_is_installed():
    assert version("starlette") == metadata.version("starlette")
    assert version("no-such-package-anywhere") == "none"


def test_there_is_some_memory_left():
    assert free_memory() > 1 << 20
