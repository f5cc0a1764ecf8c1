import torch

from diffusion.lora.apply import apply_lora
from diffusion.lora.file import parse_lora
from diffusion.lora.write import extract, kohya_tensors
from diffusion.weights import Blend, opened


def test_kohyas_names_and_alphas_go_round(make_lora, factors):
    tensors = make_lora.kohya(factors)
    again = kohya_tensors(parse_lora(tensors, "x"))
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_two_text_encoders_are_numbered():
    pair = {"lora_up.weight": torch.ones(2, 1), "lora_down.weight": torch.ones(1, 2)}
    names = ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_projection")
    tensors = {f"{name}.{end}": tensor for name in names for end, tensor in pair.items()}
    assert kohya_tensors(parse_lora(tensors, "x")).keys() == tensors.keys()


def test_a_lora_is_taken_out_of_the_difference_that_it_made(make_lora, factors, model, clip, device):
    lora = parse_lora(make_lora.kohya(factors), "x")
    patched, text, _ = apply_lora(lora, model, clip, 0.8, 0.6, device)
    tensors = {}
    for tuned, base in ((patched, model), (text, clip)):
        difference = tuned.patched(Blend(base.weights, base.patches, (("", 1.0, -1.0),)))
        with opened(difference.weights, difference.patches, device.weights) as module:
            tensors |= extract(module, base.weights.part, 4, full=False, biases=True)
    assert len(tensors) == 2 * len(factors)  # what is zero is left out
    again, again_text, fit = apply_lora(parse_lora(tensors, "extracted"), model, clip, 1.0, 1.0, device)
    assert fit.note() is None
    for wanted, found in ((patched, again), (text, again_text)):
        with opened(wanted.weights, wanted.patches, device.weights) as module:
            a = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        with opened(found.weights, found.patches, device.weights) as module:
            assert all(torch.allclose(a[name], parameter, atol=1e-5) for name, parameter in module.named_parameters())


def test_whole_differences_and_biases(model, device):
    with opened(model.weights, (), device.weights) as module:
        whole = extract(module, "unet", 2, full=True, biases=True)
        bare = extract(module, "unet", 2, full=True, biases=False)
        count = sum(bool(parameter.any()) for parameter in module.parameters())
        assert torch.equal(whole["diffusion_model.input_blocks.0.0.diff"], module.conv_in.weight)
    assert len(whole) == count
    assert not any(key.endswith("diff_b") for key in bare)
    assert all(tensor.ndim > 1 for tensor in bare.values())
