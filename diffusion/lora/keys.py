"""What a tensor of an adapter file is called: which module it belongs to, and what of it it is.

Module names come with dots (diffusers, peft, ComfyUI) or with underscores (kohya), with today's block names or those of the original
code. An underscore may stand for a dot, so dots become underscores here, and a table of the network's real names tells which is meant.
"""

from __future__ import annotations

import re

# field -> what it is is told by the end of the key; `(.+)` is the module
_PROCESSORS = re.compile(r"(.+)_lora\.(up|down)\.weight")  # diffusers' attention processors
_FIELDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), field)
    for pattern, field in (
        (r"(.+)\.lora_(up|down|mid)\.weight", ""),  # kohya
        (r"(.+)\.lora_A(?:\.(?!bias$)[^.]+)*", "down"),  # peft, also with the adapter's name
        (r"(.+)\.lora_B(?:\.(?!bias$)[^.]+)*", "up"),
        (r"(.+)\.lora_magnitude_vector(?:\.[^.]+)*", "magnitude"),
        (r"(.+)\.lora(?:_linear_layer)?\.(up|down)\.weight", ""),  # diffusers before peft
        (_PROCESSORS.pattern, ""),
        (r"(.+)\.(alpha|dora_scale|diff|diff_b|set_weight|w_norm|b_norm)", ""),
        (r"(.+)\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))", ""),  # LyCORIS
        (r"(.+)\.(oft_.+|boft_.+|rescale|[ab][12]\.weight|reshape_weight|lora_[AB](?:\..+)?\.bias|lora_embedding_[AB].*)", "unsupported"),
    )
)

_PARTS: tuple[tuple[str, str], ...] = (  # how a module's name begins -> the network it is of
    ("lora_unet_", "unet"),
    ("unet_", "unet"),
    ("model_diffusion_model_", "unet"),
    ("diffusion_model_", "unet"),
    ("lora_te1_", "te1"),
    ("lora_te2_", "te2"),
    ("lora_te_", "te1"),
    ("text_encoders_clip_g_transformer_", "te2"),
    ("text_encoders_clip_l_transformer_", "te1"),
    ("text_encoders_clip_h_transformer_", "te1"),
    ("text_encoder_2_", "te2"),
    ("text_encoder_", "te1"),
)
_UNET = re.compile(
    r"(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks|conv_in|conv_out|conv_norm_out|time_embed|add_emb)"
)
_TEXT = re.compile(r"(text_model_|encoder_layers_|final_layer_norm|text_projection)")


def split(key: str) -> tuple[str, str] | None:
    """The module of a key as written, and the field: up, down, mid, alpha, dora_scale, diff, hada_w1_a, …, or "unsupported".

    None for a key that belongs to no adapter.
    """
    for pattern, field in _FIELDS:
        match = pattern.fullmatch(key)
        if match:
            module = match[1]
            if pattern is _PROCESSORS:
                module = re.sub(r"\.to_out$", ".to_out.0", module.replace(".processor.", "."))
            return module, field or match[2]
    return None


def place(module: str) -> tuple[str, str]:
    """The network ("unet", "te1", "te2", or "" when the name does not tell) and the module's name with underscores."""
    name = module.replace(".", "_").removeprefix("base_model_model_").removeprefix("lycoris_")
    for start, part in _PARTS:
        if name.startswith(start):
            return part, _plain(name.removeprefix(start), part)
    if _UNET.match(name):
        return "unet", name
    return ("te1", _plain(name, "te1")) if _TEXT.match(name) else ("", name)


def _plain(name: str, part: str) -> str:
    return name if part == "unet" else name.removeprefix("text_model_")
