import torch
from diffusers import UNet2DConditionModel

from diffusion.lora.ldm import ldm_names
from diffusion.lora.names import modules_of, table, towers

# what the original code calls the modules of a U-Net of SDXL's plan, whose first level has no transformers
KNOWN = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.2.attentions.1.proj_out": "input_blocks.8.1.proj_out",
    "mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
    "mid_block.attentions.0.norm": "middle_block.1.norm",
    "up_blocks.0.attentions.2.transformer_blocks.1.ff.net.0.proj": "output_blocks.2.1.transformer_blocks.1.ff.net.0.proj",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
    "up_blocks.1.upsamplers.0.conv": "output_blocks.5.2.conv",
    "up_blocks.2.resnets.2.norm2": "output_blocks.8.0.out_layers.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=32,
            attention_head_dim=8,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64,
        )
    return {name: parameter.shape for name, parameter in unet.named_parameters()}


def test_original_names_of_known_modules():
    names = ldm_names(modules_of(shapes()))
    assert {module: names.get(module) for module in KNOWN} == KNOWN


def test_every_module_has_one_original_name_of_its_own():
    modules = modules_of(shapes())
    names = ldm_names(modules)
    assert names.keys() == set(modules)
    assert len(set(names.values())) == len(modules)


def test_both_names_lead_to_a_module():
    found = table("unet", shapes())
    for module, original in KNOWN.items():
        assert found["unet", module.replace(".", "_")] == module
        assert found["unet", original.replace(".", "_")] == module


def encoder(prefix: str, width: int) -> dict[str, torch.Size]:
    return {f"{prefix}encoder.layers.0.self_attn.q_proj.weight": torch.Size((width, width))}


def test_text_encoders_are_told_apart_by_order_and_width():
    small, big = encoder("one.", 768), encoder("two.text_model.", 1280) | {"two.text_projection.weight": torch.Size((1280, 1280))}
    assert towers(small | big) == {"te1": "one.", "te2": "two.text_model."}
    assert towers(big | small) == {"te1": "one.", "te2": "two.text_model."}
    found = table("text", small | big)
    assert found["te1", "encoder_layers_0_self_attn_q_proj"] == "one.encoder.layers.0.self_attn.q_proj"
    assert found["te2", "text_projection"] == "two.text_projection"
    assert ("te2", "encoder_layers_0_self_attn_q_proj") not in table("text", small)
    refiner = table("text", big)
    assert refiner["te1", "encoder_layers_0_self_attn_q_proj"] == refiner["te2", "encoder_layers_0_self_attn_q_proj"]
