"""One LoRA in every layout, on a real network: the same weights, whatever the names; nothing left behind."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from diffusion.lora.adapter import Lora
from diffusion.lora.apply import apply_lora
from diffusion.lora.file import parse_lora, read_lora
from diffusion.weights import opened


def weights(value, device):
    with opened(value.weights, value.patches, device.weights) as module:
        return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def layouts(make_lora, shapes, factors, tmp_path_factory):
    rename = make_lora.ldm_names([name.partition(":")[2].rpartition(".")[0] for name in shapes if name.startswith("unet:")])
    folder = tmp_path_factory.mktemp("loras") / "peft"
    make_lora.write_peft(factors, folder)
    made = {
        "kohya": make_lora.kohya(factors),
        "original names": make_lora.kohya(factors, rename),
        "diffusers": make_lora.diffusers(factors),
        "diffusers 0.17": make_lora.diffusers_mid(factors),
        "comfy": make_lora.comfy(factors, rename),
    }
    return {name: parse_lora(tensors, name) for name, tensors in made.items()} | {"peft": read_lora(folder)}


@pytest.fixture(scope="module")
def expected(factors, model, clip, device):
    """W + strength·(alpha / rank)·up·down in double precision, strengths 0.7 and -0.4."""
    plain = {"unet": weights(model, device), "text_encoder": weights(clip, device)}
    for name, (up, down, alpha) in factors.items():
        part, _, path = name.partition(":")
        strength, prefix = (0.7, "") if part == "unet" else (-0.4, "model.")
        weight = plain[part][f"{prefix}{path}.weight"].double()
        delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        plain[part][f"{prefix}{path}.weight"] = weight + strength * (alpha / len(down)) * delta
    return plain


@pytest.mark.parametrize("name", ["kohya", "original names", "diffusers", "diffusers 0.17", "comfy", "peft"])
def test_every_layout_gives_the_weights_of_the_formula(name, layouts, expected, factors, model, clip, device):
    patched, text, fit = apply_lora(layouts[name], model, clip, 0.7, -0.4, device)
    assert (fit.matched, fit.total, fit.note()) == (len(factors), len(factors), None)
    for found, wanted in ((weights(patched, device), expected["unet"]), (weights(text, device), expected["text_encoder"])):
        assert max(float((found[key] - wanted[key]).abs().max()) for key in wanted) < 1e-5


def test_old_attention_processors(make_lora, factors, layouts, model, clip, device):
    lora = parse_lora(make_lora.diffusers_old(factors), "old")
    attention = Lora("kohya", tuple(m for m in layouts["kohya"].modules if "_attn" in m.path and m.part == "unet"))
    patched, _, fit = apply_lora(lora, model, clip, 1.0, 1.0, device)
    assert fit.matched == len(attention.modules) > 0
    old, wanted = weights(patched, device), weights(apply_lora(attention, model, None, 1.0, 0.0, device)[0], device)
    assert max(float((old[key] - wanted[key]).abs().max()) for key in old) < 1e-5


def test_strength_zero_is_the_same_object_and_undoing_is_bit_equal(layouts, model, clip, device):
    before = weights(model, device)
    patched, text, _ = apply_lora(layouts["kohya"], model, clip, 0.0, 0.0, device)
    assert patched is model
    assert text is clip
    assert not same(weights(apply_lora(layouts["kohya"], model, clip, -3.0, 0.0, device)[0], device), before)
    assert same(weights(model, device), before)


def test_several_in_any_order_are_bit_equal(make_lora, shapes, model, device):
    loras = [parse_lora(make_lora.kohya(make_lora.make(shapes, rank, seed)), str(seed)) for seed, rank in ((1, 2), (2, 4), (3, 3))]
    for count in (2, 3):
        found = []
        for order in itertools.permutations(zip(loras[:count], (0.8, -1.3, 0.1), strict=False)):
            patched = model
            for lora, strength in order:
                patched = apply_lora(lora, patched, None, strength, 0.0, device)[0]
            found.append(weights(patched, device))
        assert all(same(found[0], other) for other in found)


def test_a_lora_and_its_negative_are_nothing_but_rounding(layouts, model, device):
    plain = weights(model, device)
    patched = apply_lora(layouts["kohya"], apply_lora(layouts["kohya"], model, None, 1.5, 0.0, device)[0], None, -1.5, 0.0, device)[0]
    assert same(weights(patched, device), plain)


def test_what_matches_in_part_is_counted_and_named(layouts, model, clip, device):
    lora = layouts["kohya"]
    strange = [replace(lora.modules[0], path=f"strange_{i}", key=f"lora_unet_strange_{i}") for i in range(12)]
    more = Lora("more", (*lora.modules, *strange), ("bundle_emb.cat.clip_l",))
    _, _, fit = apply_lora(more, model, clip, 1.0, 1.0, device)
    assert (fit.matched, fit.total) == (len(lora.modules), len(lora.modules) + 12)
    note = fit.note()
    assert f"{fit.matched} of {fit.total} modules matched" in note
    assert "lora_unet_strange_0" in note
    assert "and 3 more" in note


def test_what_is_for_the_text_encoder_does_not_count_where_there_is_none(layouts, model, device):
    patched, _, fit = apply_lora(layouts["kohya"], model, None, 1.0, 1.0, device)
    assert fit.note() is None
    assert 0 < fit.total < len(layouts["kohya"].modules)
    assert len(patched.patches) == 1


def test_nothing_matching_is_an_error(layouts, model, clip, device):
    lora = Lora("far", tuple(replace(module, path="far_" + module.path) for module in layouts["kohya"].modules))
    with pytest.raises(ValueError, match=r"LoRA far: none of its \d+ modules is in this model and text encoder; they are called lora_"):
        apply_lora(lora, model, clip, 1.0, 1.0, device)
    text_only = Lora("text", tuple(module for module in layouts["kohya"].modules if module.part == "te1"))
    with pytest.raises(ValueError, match=r"none of its \d+ modules is in this model;"):
        apply_lora(text_only, model, None, 1.0, 0.0, device)


def test_another_size_is_an_error_that_names_the_key(model, device):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_up.weight": torch.ones(64, 2), f"{key}.lora_down.weight": torch.ones(2, 768)}
    with pytest.raises(ValueError, match=rf"{key} does not fit this model: .*\(64, 32\).*\(2, 768\)"):
        apply_lora(parse_lora(tensors, "big"), model, None, 1.0, 0.0, device)


def test_factors_without_their_partner_are_an_error(model, device):
    for end, wanted in (
        ("lora_up.weight", "lora_down"),
        ("lora_down.weight", "lora_up"),
        ("hada_w1_a", "hada_w1_b"),
        ("lokr_w1", "lokr_w2"),
    ):
        lora = parse_lora({f"lora_unet_conv_in.{end}": torch.ones(32, 2)}, "half")
        with pytest.raises(ValueError, match=rf"lora_unet_conv_in: .*{wanted}"):
            apply_lora(lora, model, None, 1.0, 0.0, device)


def test_differences_of_weights_and_biases_and_whole_weights(model, device):
    plain = weights(model, device)
    tensors = {
        "diffusion_model.input_blocks.0.0.diff": torch.full_like(plain["conv_in.weight"], 0.5),
        "diffusion_model.input_blocks.0.0.diff_b": torch.full_like(plain["conv_in.bias"], 0.25),
        "diffusion_model.out.0.w_norm": torch.ones_like(plain["conv_norm_out.weight"]),
        "diffusion_model.out.0.b_norm": torch.ones_like(plain["conv_norm_out.bias"]),
        "diffusion_model.out.2.set_weight": torch.full_like(plain["conv_out.weight"], 7.0),
        "lora_unet_mid_block_attentions_0_proj_in.diff": torch.ones(64, 64),  # a 1 × 1 convolution here
    }
    found = weights(apply_lora(parse_lora(tensors, "x"), model, None, 2.0, 0.0, device)[0], device)
    assert torch.equal(found["conv_in.weight"], plain["conv_in.weight"] + 1.0)
    assert torch.equal(found["conv_in.bias"], plain["conv_in.bias"] + 0.5)
    assert torch.equal(found["conv_norm_out.weight"], plain["conv_norm_out.weight"] + 2)
    assert torch.equal(found["conv_norm_out.bias"], plain["conv_norm_out.bias"] + 2)
    assert torch.equal(found["conv_out.weight"], torch.full_like(plain["conv_out.weight"], 7.0))
    name = "mid_block.attentions.0.proj_in.weight"
    assert torch.equal(found[name], plain[name] + 2)


def test_a_bias_that_the_network_does_not_have_is_told(model, device):
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    tensors = {f"{key}.diff": torch.ones(64, 64), f"{key}.diff_b": torch.ones(64)}
    _, _, fit = apply_lora(parse_lora(tensors, "x"), model, None, 1.0, 0.0, device)
    assert fit.unmatched == (f"{key}.diff_b",)
    assert fit.matched == 1


def test_dora_of_the_own_magnitude_is_the_lora_turned_not_stretched(model, device):
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    plain = weights(model, device)[f"{name}.weight"]
    magnitude = plain.norm(dim=1)
    tensors = {f"unet.{name}.lora_B.weight": torch.ones(64, 1), f"unet.{name}.lora_A.weight": torch.randn(1, 64)}
    lora = parse_lora(tensors | {f"unet.{name}.lora_magnitude_vector": magnitude}, "dora")
    found = weights(apply_lora(lora, model, None, 1.0, 0.0, device)[0], device)[f"{name}.weight"]
    assert torch.allclose(found.norm(dim=1), magnitude, rtol=1e-5)
    assert not torch.allclose(found, plain, atol=0.1)


def test_a_value_with_a_lora_on_it_holds_nothing_but_descriptions(layouts, model, device):
    patched = apply_lora(layouts["kohya"], model, None, 1.0, 0.0, device)[0]
    assert patched.weights == model.weights
    json.dumps([patched.patches[0].name, patched.patches[0].strength])
    with pytest.raises(AttributeError):
        patched.patches[0].strength = 2.0


def test_a_file_that_changes_later_does_not_change_the_adapter(tmp_path, make_lora, factors):
    path = tmp_path / "a.safetensors"
    save_file(make_lora.contiguous(make_lora.kohya(factors)), path)
    lora = read_lora(path)
    before = lora.modules[0].tensors[0][1].clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(lora.modules[0].tensors[0][1], before)
