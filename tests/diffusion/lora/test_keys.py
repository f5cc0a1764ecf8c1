import pytest

from diffusion.lora.keys import place, split

Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
Q_DOTS = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TE = "encoder_layers_0_self_attn_q_proj"
TE_DOTS = "encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("key", "part", "path", "field"),
    [
        (f"lora_unet_{Q}.lora_down.weight", "unet", Q, "down"),
        (f"lora_unet_{Q}.lora_up.weight", "unet", Q, "up"),
        (f"lora_unet_{Q}.lora_mid.weight", "unet", Q, "mid"),
        (f"lora_unet_{Q}.alpha", "unet", Q, "alpha"),
        (f"lora_unet_{Q}.dora_scale", "unet", Q, "dora_scale"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_up.weight", "unet", "input_blocks_4_1_proj_in", "up"),
        (f"lora_te_text_model_{TE}.lora_up.weight", "te1", TE, "up"),
        (f"lora_te1_text_model_{TE}.lora_up.weight", "te1", TE, "up"),
        (f"lora_te2_text_model_{TE}.lora_up.weight", "te2", TE, "up"),
        (f"unet.{Q_DOTS}.lora_A.weight", "unet", Q, "down"),
        (f"unet.{Q_DOTS}.lora_B.weight", "unet", Q, "up"),
        (f"text_encoder.text_model.{TE_DOTS}.lora_B.weight", "te1", TE, "up"),
        (f"text_encoder.{TE_DOTS}.lora_B.weight", "te1", TE, "up"),
        (f"text_encoder_2.text_model.{TE_DOTS}.lora_A.weight", "te2", TE, "down"),
        (f"unet.{Q_DOTS}.lora.down.weight", "unet", Q, "down"),
        (f"text_encoder.text_model.{TE_DOTS}.lora_linear_layer.up.weight", "te1", TE, "up"),
        (f"{Q_DOTS[:-5]}.processor.to_q_lora.down.weight", "unet", Q, "down"),
        (f"unet.{Q_DOTS[:-5]}.processor.to_out_lora.up.weight", "unet", Q[:-5] + "_to_out_0", "up"),
        (f"base_model.model.{Q_DOTS}.lora_A.default.weight", "unet", Q, "down"),
        (f"base_model.model.{Q_DOTS}.lora_A.weight", "unet", Q, "down"),
        (f"base_model.model.text_model.{TE_DOTS}.lora_B.weight", "te1", TE, "up"),
        (f"base_model.model.unet.{Q_DOTS}.lora_magnitude_vector", "unet", Q, "magnitude"),
        ("diffusion_model.input_blocks.4.1.proj_in.lora_up.weight", "unet", "input_blocks_4_1_proj_in", "up"),
        (f"text_encoders.clip_g.transformer.text_model.{TE_DOTS}.lora_up.weight", "te2", TE, "up"),
        (f"lycoris_{Q}.hada_w1_a", "unet", Q, "hada_w1_a"),
        (f"lora_unet_{Q}.hada_t1", "unet", Q, "hada_t1"),
        (f"lora_unet_{Q}.lokr_w2_b", "unet", Q, "lokr_w2_b"),
        (f"lora_unet_{Q}.lokr_w1", "unet", Q, "lokr_w1"),
        (f"lora_unet_{Q}.diff", "unet", Q, "diff"),
        (f"lora_unet_{Q}.diff_b", "unet", Q, "diff_b"),
        (f"lora_unet_{Q}.oft_blocks", "unet", Q, "unsupported"),
        (f"lora_unet_{Q}.a1.weight", "unet", Q, "unsupported"),
        (f"unet.{Q_DOTS}.lora_B.bias", "unet", Q, "unsupported"),
    ],
)
def test_every_layout_says_the_same(key, part, path, field):
    module, found = split(key)
    assert (*place(module), found) == (part, path, field)


@pytest.mark.parametrize("key", ["bundle_emb.cat.string_to_param.*", "model.diffusion_model.out.2.weight", "lora_up.weight", ".alpha"])
def test_other_keys_are_of_no_adapter(key):
    assert split(key) is None
