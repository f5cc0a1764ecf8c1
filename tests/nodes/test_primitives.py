import torch

from diffusion.values import Latent
from nodes.primitives import PreviewAny, PrimitiveBoolean, PrimitiveFloat, PrimitiveInt, PrimitiveString, PrimitiveStringMultiline, describe


def test_primitives_hand_on_what_they_hold(ctx):
    assert PrimitiveInt(value=-3).run(ctx) == -3
    assert PrimitiveFloat(value=0.5).run(ctx) == 0.5
    assert PrimitiveString(value="a").run(ctx) == "a"
    assert PrimitiveStringMultiline(value="a\nb").run(ctx) == "a\nb"
    assert PrimitiveBoolean(value=True).run(ctx) is True


def test_any_value_is_shown_as_text(ctx):
    PreviewAny(source="a text").run(ctx)
    PreviewAny(source=7).run(ctx)
    assert ctx.ui["text"] == ["a text", "7"]
    assert describe(True) == "True"
    assert describe([1, "b"]) == '[\n    1,\n    "b"\n]'
    shown = describe(Latent(torch.zeros(1, 4, 2, 2), format="sd1"))
    assert shown == "Latent(x=float32 [1, 4, 2, 2], noise_mask=None, batch_index=None, format='sd1')"
