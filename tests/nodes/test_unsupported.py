import pytest

from graph_engine.errors import NodeError
from nodes.unsupported import GLIGENLoader, unCLIPCheckpointLoader


def test_they_name_what_was_asked_for_and_what_to_use_instead(ctx):
    with pytest.raises(NodeError, match=r"gligen_name: 'boxes\.safetensors' .* not supported; use Conditioning"):
        GLIGENLoader(gligen_name="boxes.safetensors").run(ctx)
    with pytest.raises(NodeError, match=r"ckpt_name: 'x\.safetensors' .* not supported, use Load Checkpoint"):
        unCLIPCheckpointLoader(ckpt_name="x.safetensors").run(ctx)
