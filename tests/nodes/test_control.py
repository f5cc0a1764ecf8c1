import pytest
import torch
from safetensors.torch import save_file

from diffusion.control.value import ControlNet
from diffusion.values import Image
from graph_engine.errors import NodeError
from nodes.control import ControlNetApply, ControlNetApplyAdvanced, ControlNetLoader, DiffControlNetLoader, SetUnionControlNetType

PICTURE = Image(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def files(tmp_path):
    place = tmp_path / "models" / "controlnet"
    place.mkdir(parents=True)
    marker = {"zero_convs.0.0.weight": torch.ones(1)}
    save_file(marker, place / "plain.safetensors")
    save_file(marker, place / "control_shuffle.safetensors")
    save_file(marker | {"difference": torch.ones(())}, place / "diff.safetensors")
    save_file({"body.0.in_conv.weight": torch.ones(1)}, place / "adapter.safetensors")
    save_file({"lora_unet_a.alpha": torch.ones(1)}, place / "lora.safetensors")


def test_the_loader_tells_what_a_file_is(ctx, files):
    def load(name):
        return ControlNetLoader(control_net_name=name).run(ctx)

    assert load("plain.safetensors").kind == "controlnet"
    assert load("adapter.safetensors").kind == "adapter"
    assert not load("plain.safetensors").pooled
    assert load("control_shuffle.safetensors").pooled
    with pytest.raises(NodeError, match=r"control_net_name: lora\.safetensors: a ControlNet or T2I-Adapter is wanted"):
        load("lora.safetensors")


def test_differences_know_their_model(ctx, files, model):
    def load(name):
        return DiffControlNetLoader(model=model, control_net_name=name).run(ctx)

    assert load("diff.safetensors").base == model.weights
    assert load("plain.safetensors").base is None


@pytest.fixture
def net(ctx, files) -> ControlNet:
    return ControlNetLoader(control_net_name="plain.safetensors").run(ctx)


def test_union_types_by_number(ctx, net):
    assert SetUnionControlNetType(control_net=net, type="canny/lineart/anime_lineart/mlsd").run(ctx).types == (3,)
    assert SetUnionControlNetType(control_net=net, type="repaint").run(ctx).types == (7,)
    assert SetUnionControlNetType(control_net=net).run(ctx).types == ()


def test_the_advanced_node_gives_both_the_same_control(ctx, net, red, blue):
    out = ControlNetApplyAdvanced(
        positive=red, negative=blue, control_net=net, image=PICTURE, strength=0.5, start_percent=0.1, end_percent=0.6
    ).run(ctx)
    (patch,) = out.positive.entries[0].patches
    assert out.negative.entries[0].patches == (patch,)
    assert (patch.strength, patch.start, patch.end, patch.spread) == (0.5, 0.1, 0.6, False)
    again = ControlNetApplyAdvanced(positive=out.positive, negative=out.negative, control_net=net, image=PICTURE).run(ctx)
    assert again.positive.entries[0].patches[0] is patch
    assert len(again.negative.entries[0].patches) == 2


def test_the_old_node_also_drives_the_negative(ctx, net, red):
    (patch,) = ControlNetApply(conditioning=red, control_net=net, image=PICTURE).run(ctx).entries[0].patches
    assert patch.spread
    assert (patch.strength, patch.start, patch.end) == (1.0, 0.0, 1.0)


def test_strength_0_passes_through(ctx, net, red, blue):
    assert ControlNetApply(conditioning=red, control_net=net, image=PICTURE, strength=0).run(ctx) is red
    out = ControlNetApplyAdvanced(positive=red, negative=blue, control_net=net, image=PICTURE, strength=0).run(ctx)
    assert (out.positive, out.negative) == (red, blue)
