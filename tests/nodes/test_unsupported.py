import pytest
import torch

from diffusion.values import Image
from diffusion.vision import ClipVisionOutput
from graph_engine.errors import NodeError
from nodes.unsupported import (
    Gligen,
    GLIGENLoader,
    GLIGENTextBoxApply,
    SD_4XUpscale_Conditioning,
    unCLIPCheckpointLoader,
    unCLIPConditioning,
)


def test_they_name_what_was_asked_for_and_what_to_use_instead(ctx):
    with pytest.raises(NodeError, match=r"gligen_name: 'boxes\.safetensors' .* not supported; use Conditioning"):
        GLIGENLoader(gligen_name="boxes.safetensors").run(ctx)
    with pytest.raises(NodeError, match=r"ckpt_name: 'x\.safetensors' .* not supported, use Load Checkpoint"):
        unCLIPCheckpointLoader(ckpt_name="x.safetensors").run(ctx)


def test_a_box_may_be_one_cell_and_has_no_model(ctx, red, clip):
    box = GLIGENTextBoxApply(conditioning_to=red, clip=clip, gligen_textbox_model=Gligen(), text="cat", width=8, height=8)
    with pytest.raises(NodeError, match="gligen_textbox_model: GLIGEN is not supported; use Conditioning"):
        box.run(ctx)


def test_conditionings_of_such_models_name_another_way(ctx, red, blue):
    with pytest.raises(NodeError, match="unCLIP models are not supported; use an IP-Adapter"):
        unCLIPConditioning(conditioning=red, clip_vision_output=ClipVisionOutput(*(torch.zeros(1, 1, 1),) * 3)).run(ctx)
    with pytest.raises(NodeError, match="fourfold diffusion upscaler is not supported; use Upscale Image"):
        SD_4XUpscale_Conditioning(images=Image(torch.zeros(1, 8, 8, 3)), positive=red, negative=blue).run(ctx)
