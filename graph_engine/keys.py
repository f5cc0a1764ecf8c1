"""Content keys: what a node computes, named by its type, its literals and the identities of its inputs. No node ids, no process state.

An output's *identity* is what the keys of its consumers are made of: the digest of its own content when that is small, so that "the input
changed, the result did not" stops there; else the key of the node that made it, and the output's position.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graph_engine.codec import NotPlain, content_digest
from graph_engine.spec import NodeSpec

if TYPE_CHECKING:
    from graph_engine.device import Device

__all__ = ["SMALL", "constant_identity", "environment_key", "identify", "node_key", "nonce", "output_identity"]

SMALL = 64 * 1024  # bytes of all outputs of a node, up to which they are known by their content
_write = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_SCALARS = (bool, int, float, str, type(None))


def node_key(spec: NodeSpec, literals: Mapping[str, Any], files: Mapping[str, str], inputs: Mapping[str, bytes]) -> bytes:
    """16 bytes that name what a node computes.

    `literals` are canonical, `files` holds the content of file inputs as hex digests, `inputs` the identities of what is linked.
    """
    links = {name: identity.hex() for name, identity in inputs.items()}
    text = _write([spec.type, spec.version, literals, files, links])
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"node").digest()


def output_identity(key: bytes, index: int) -> bytes:
    """The identity of an output that is known by the node that made it."""
    return hashlib.blake2b(key + index.to_bytes(4, "little"), digest_size=16, person=b"output").digest()


def constant_identity(key: str) -> bytes:
    """The identity of a value given in memory under a key; the hex of a content digest is that digest."""
    try:
        if len(found := bytes.fromhex(key)) == 16:
            return found
    except ValueError:
        pass  # a name that its maker chose
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, person=b"constant").digest()


def identify(key: bytes, outputs: Sequence[Any], size: int, device: Device, sources: Sequence[bytes] | None = None) -> tuple[bytes, ...]:
    """The identities of the outputs of a node, which hold `size` bytes in all: scalars always, the rest if small, by content.

    The others are known by their node, or by `sources` if they were made elsewhere.
    """
    small = size <= SMALL
    return tuple(
        (_content(value, device) if small or isinstance(value, _SCALARS) else None)
        or (output_identity(key, i) if sources is None else sources[i])
        for i, value in enumerate(outputs)
    )


def environment_key(key: bytes, environment: str) -> bytes:
    """The key of the same result in a store that outlives this process and its libraries."""
    return hashlib.blake2b(key + environment.encode(), digest_size=16, person=b"disk").digest()


def nonce() -> bytes:
    """A key that nothing else has."""
    return os.urandom(16)


def _content(value: Any, device: Device) -> bytes | None:
    try:
        return content_digest(value, device)
    except NotPlain:
        return None  # known by its maker, then
