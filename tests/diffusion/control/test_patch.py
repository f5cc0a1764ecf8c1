from dataclasses import replace

import pytest
import torch

from diffusion.call import Moment, NetCall, Rows
from diffusion.conditioning import combine, set_area, set_mask
from diffusion.control.patch import Control, Window, apply_all, rows_of, spread
from diffusion.guidance import CFG, Conditional
from diffusion.session import open_session
from diffusion.values import Image, Mask


def denoise(model, device, guidance, x, sigma=3.0):
    with open_session(model, guidance, device) as net:
        return net.denoise(x, sigma)


@pytest.fixture
def control(controlnet, picture):
    return Control(controlnet, picture, 0.8)


def test_strength_0_passes_through(red, blue, controlnet, picture):
    assert apply_all((red, blue), controlnet, Image(picture), 0.0) == (red, blue)


def test_one_patch_serves_positive_and_negative(red, blue, controlnet, picture):
    positive, negative = apply_all((red, blue), controlnet, Image(picture), 1.0)
    assert positive.entries[0].patches[0] is negative.entries[0].patches[0]


def test_on_the_conditioning_and_on_the_model_is_the_same(model, device, red, blue, controlnet, picture, x, control):
    both = apply_all((red, blue), controlnet, Image(picture), 0.8)
    on_conditioning = denoise(model, device, CFG(*both, 3.0), x)
    on_model = denoise(model.patched(control), device, CFG(red, blue, 3.0), x)
    assert torch.allclose(on_conditioning, on_model, atol=1e-5)
    assert not torch.allclose(on_model, denoise(model, device, CFG(red, blue, 3.0), x), atol=1e-3)


def test_the_window_is_in_noise_levels_and_closed_at_both_ends(model, device, red, x, control):
    plain, table = Conditional(red), model.process.table()
    bare = {sigma: denoise(model, device, plain, x, sigma) for sigma in (9.0, 3.0, 0.5)}
    start, end = table.percent_to_sigma(0.2), table.percent_to_sigma(0.6)
    assert 9.0 > start > 3.0 > end > 0.5
    patched = model.patched(replace(control, start=0.2, end=0.6))
    for sigma, changed in ((9.0, False), (3.0, True), (0.5, False)):
        assert torch.equal(denoise(patched, device, plain, x, sigma), bare[sigma]) is not changed
    window = Window(control, start, end)
    assert window.open(start)
    assert window.open(end)
    assert not window.open(start * 1.0001)


def residuals(model, device, red, x, *patches):
    with open_session(model.patched(*patches), Conditional(red), device) as net:
        call = NetCall(x, red.entries[0].embeds.expand(2, -1, -1), Rows((("positive", 0, 2),), 2), Moment(0, 1, 3.0, 500), (None,), (8, 8))
        return [net.state(patch).residuals(call) for patch in patches]


def test_strength_scales_every_residual(model, device, red, x, control):
    full, half = residuals(model, device, red, x, replace(control, strength=1.0), replace(control, strength=0.5))
    for a, b in zip((*full.down, full.mid), (*half.down, half.mid), strict=True):
        assert torch.allclose(a / 2, b, atol=1e-6)


def test_pooled_residuals_are_even(model, device, red, x, control):
    plain, pooled = residuals(model, device, red, x, control, replace(control, net=replace(control.net, pooled=True)))
    assert torch.allclose(pooled.mid, plain.mid.mean((2, 3), keepdim=True).expand_as(plain.mid), atol=1e-6)


def test_several_controls_add_up_in_any_order(model, device, red, x, control):
    other = replace(control, hint=1 - control.hint)
    one, two = (denoise(model.patched(*patches), device, Conditional(red), x) for patches in ((control, other), (other, control)))
    assert torch.allclose(one, two, atol=1e-5)
    twice = denoise(model.patched(control, replace(control)), device, Conditional(red), x)
    double = denoise(model.patched(replace(control, strength=1.6)), device, Conditional(red), x)
    assert torch.allclose(twice, double, atol=1e-4)


def test_hints_are_cut_to_the_middle_and_take_the_nearest_pixel(control):
    wide = torch.zeros(1, 10, 30, 3)
    wide[:, :, 10:20] = torch.arange(10.0)[None, None, :, None]
    hint = Window(replace(control, hint=wide), 1, 0).hint(20, 20)
    assert hint.shape == (1, 3, 20, 20)
    assert torch.equal(hint[0, 0, 0], torch.arange(10.0).repeat_interleave(2))


def test_each_sample_takes_its_hint_in_every_entry():
    hints = torch.arange(2.0).view(2, 1, 1, 1)
    assert rows_of(hints, 6, 3).flatten().tolist() == [0, 1, 0, 0, 1, 0]
    assert rows_of(hints[:1], 6, 3) is not None
    assert len(rows_of(hints[:1], 6, 3)) == 1


def test_a_hint_a_sample(model, device, red, x, control):
    batch = torch.cat([control.hint, 1 - control.hint])
    both = denoise(model.patched(replace(control, hint=batch)), device, Conditional(red), x)
    for i in range(2):
        alone = denoise(model.patched(replace(control, hint=batch[i : i + 1])), device, Conditional(red), x[i : i + 1])
        assert torch.allclose(both[i : i + 1], alone, atol=1e-5)


def test_the_old_node_hands_its_control_to_a_negative_without(red, blue, controlnet, picture):
    (steered,) = apply_all((red,), controlnet, Image(picture), 1.0, spread=True)
    patch = steered.entries[0].patches[0]
    out = spread({"positive": steered, "negative": blue})
    assert out["negative"].entries[0].patches == (patch,)
    assert torch.equal(out["negative"].entries[0].embeds, blue.entries[0].embeds)
    (own,) = apply_all((blue,), controlnet, Image(picture), 0.5)
    assert spread({"positive": steered, "negative": own})["negative"] is own
    (kept,) = apply_all((red,), controlnet, Image(picture), 1.0)
    assert spread({"positive": kept, "negative": blue})["negative"] is blue
    for here in (set_area(steered, 4, 4, 0, 0), set_mask(steered, Mask(torch.ones(1, 8, 8)), bounds=True)):
        assert spread({"positive": here, "negative": blue})["negative"] is blue
    (again,) = apply_all((red,), controlnet, Image(picture), 0.7, spread=True)
    (entry,) = spread({"positive": combine(steered, again), "negative": blue})["negative"]
    assert entry.patches == again.entries[0].patches  # of two controls for one entry the last holds, as in ComfyUI
    two = spread({"positive": combine(steered, again), "negative": combine(blue, blue)})["negative"]
    assert [entry.patches for entry in two] == [(patch,), again.entries[0].patches]
    assert spread({"positive": steered}) == {"positive": steered}


def test_a_controlnet_of_another_kind_of_model_is_told(model, device, clip, x, control, red):
    wide = red.map(embeds=torch.zeros(1, 12, 48))
    call = NetCall(x, wide.entries[0].embeds, Rows((("positive", 0, 2),), 2), Moment(0, 1, 3.0, 500), (None,), (8, 8))
    with (
        open_session(model.patched(control), Conditional(red), device) as net,
        pytest.raises(ValueError, match="it reads text of width 32, the model's has 48"),
    ):
        net.state(control).residuals(call)


def test_a_text_for_the_control_alone_changes_what_the_control_says_and_nothing_else(model, device, red, blue, controlnet, picture, x):
    text = blue.entries[0].embeds
    (steered,) = apply_all((red,), controlnet, Image(picture), 1.0)
    told = denoise(model, device, Conditional(steered.map(control_embeds=text)), x)
    assert not torch.allclose(told, denoise(model, device, Conditional(steered), x), atol=1e-4)
    same = denoise(model, device, Conditional(steered.map(control_embeds=red.entries[0].embeds)), x)
    assert torch.equal(same, denoise(model, device, Conditional(steered), x))
    plain = denoise(model, device, Conditional(red), x)
    assert torch.equal(denoise(model, device, Conditional(red.map(control_embeds=text)), x), plain)
