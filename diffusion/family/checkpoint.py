"""Which family a single file is of, by the shapes of its weights, and what it is instead when it is of none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from diffusion.family.parts import Part, find_text, find_unet, find_vae
from diffusion.family.structure import Structure
from diffusion.files import TensorFile
from diffusion.process import Process

V_SPREAD = 0.09  # 2.x: the biases of the last transformer's first norm spread wider in models that predict v (ComfyUI's test)
COSXL_LEAST = 0.002  # the lowest level where the file has the highest only
SIZES = 256  # width of each number that SDXL is told

# what files are known by, most telling first
_OTHERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("double_blocks.", "single_blocks.", "single_transformer_blocks."), "a Flux model"),
    (("joint_blocks.", "context_embedder."), "a Stable Diffusion 3 model"),
    (("clip_txt_mapper.", "clip_mapper."), "a Stable Cascade model"),
    (("motion_modules.",), "an AnimateDiff motion module"),
    (("lora_controlnet",), "a control-LoRA"),
    (("control_model.", "zero_convs.", "input_hint_block.", "controlnet_down_blocks.", "controlnet_cond_embedding."), "a ControlNet"),
    (("lora_unet_", "lora_te", ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "hada_w1", "lokr_w"), "a LoRA"),
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("adapter.body.", "body.0.resnets", "body.0.in_conv"), "a T2I-Adapter"),
    (("emb_params", "string_to_param", "clip_l", "clip_g"), "a textual-inversion embedding"),
    (("style_embedding", "transformer_layes."), "a T2I style model"),
    (("vision_model.", "visual.transformer."), "a CLIP vision model"),
    (("encoder.block.", "shared.weight"), "a T5 text encoder"),
)

_UNETS = (  # by what they have beside a Stable Diffusion model's
    (".time_stack.", "a Stable Video Diffusion model"),
    (".fuser.", "a GLIGEN model"),
    (".motion_modules.", "an AnimateDiff model"),
)

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a whole checkpoint is."""

    family: str
    process: Process


def examine(file: TensorFile) -> Checkpoint:
    """What a checkpoint is. Raises ValueError when a part or weights are missing, or when it is of no family that is known."""
    unet, text, vae = _parts(file)
    absent = [name for name, part in (("U-Net", unet), ("text encoder", text), ("VAE", vae)) if not part]
    if unet is None or vae is None or not text:
        found = describe(file)
        lacks = f", no {' and no '.join(absent)}" if found.startswith("it has") else ""
        raise ValueError(f"{file.path.name}: a checkpoint with U-Net, text encoder and VAE is wanted; {found}{lacks}")
    name, process = _unet(unet)
    _vae(vae)
    _check_text(file, name, unet.structure, text)
    for part in (unet, *text, vae):
        part.check()
    return Checkpoint(name, process)


def examine_unet(file: TensorFile) -> tuple[str, Process]:
    """The family and process of a file's U-Net. Raises ValueError when it has none or weights are missing."""
    unet = _told(file, find_unet)
    if unet is None:
        raise ValueError(f"{file.path.name}: a U-Net is wanted; {describe(file)}")
    found = _unet(unet)
    unet.check()
    return found


def examine_text(files: Sequence[TensorFile]) -> str:
    """The family of text encoders in one or two files. Raises ValueError when there is none, or when two do not belong together."""
    parts: list[Part] = []
    for file in files:
        found = _told(file, find_text)
        if not found:
            raise ValueError(f"{file.path.name}: a CLIP text encoder is wanted; {describe(file)}")
        parts += found
    names = sorted(part.structure.name for part in parts)
    if names not in (["l"], ["h"], ["g"], ["g", "l"]):
        raise ValueError(
            f"{' and '.join(file.path.name for file in files)}: one text encoder, or CLIP-L and OpenCLIP bigG, are wanted; "
            f"{' and '.join(_tell(part) for part in parts)} found"
        )
    for part in parts:
        part.check()
    return "sdxl" if "g" in names else "sd1"


def examine_vae(file: TensorFile) -> None:
    """Raise ValueError when a file has no VAE or weights are missing."""
    vae = _told(file, find_vae)
    if vae is None:
        raise ValueError(f"{file.path.name}: a VAE is wanted; {describe(file)}")
    _vae(vae)
    vae.check()


def describe(file: TensorFile) -> str:
    """What a file seems to be, in words."""
    for marks, name in _OTHERS:
        if any(mark in key for key in file.shapes for mark in marks):
            return f"this is {name}"
    try:
        unet, text, vae = _parts(file)
    except ValueError:
        return "this is a damaged checkpoint"
    found = [name for name, part in (("a U-Net", unet), ("a text encoder", text), ("a VAE", vae)) if part]
    if found:
        return f"it has {' and '.join(found)}"
    sample = ", ".join(list(file.shapes)[:3])
    return f"its {len(file.shapes)} tensors are not known" + (f" ({sample}, …)" if sample else "")


def _parts(file: TensorFile) -> tuple[Part | None, list[Part], Part | None]:
    return _told(file, find_unet), _told(file, find_text), _told(file, find_vae)


def _told(file: TensorFile, find: Callable[[TensorFile], Found]) -> Found:
    try:
        return find(file)
    except ValueError as problem:
        raise ValueError(f"{file.path.name}: {problem}") from problem


def _tell(part: Part) -> str:
    return f"a text encoder of width {part.structure.width}"


def _unet(part: Part) -> tuple[str, Process]:
    file, structure = part.file, part.structure
    if structure.outputs != 4 or structure.inputs not in (4, 8, 9):
        raise ValueError(
            f"{file.path.name}: a U-Net with 4, 8 (InstructPix2Pix) or 9 (inpainting) input channels and 4 outputs is wanted, "
            f"{structure.inputs} and {structure.outputs} found"
        )
    try:
        structure.config()
    except ValueError as problem:
        raise ValueError(f"{file.path.name}: {problem}") from problem
    for mark, name in _UNETS:
        if any(mark in key for key in part.keys):
            raise ValueError(f"{file.path.name}: a U-Net for pictures is wanted; this is {name}")
    if "edm_vpred.sigma_max" in file.shapes:
        return "sd1" if structure.added is None else "sdxl", _cosxl(file, structure)
    if structure.added is None:
        return "sd1", Process("v_prediction" if _predicts_v(part, structure) else "epsilon", zero_terminal_snr="ztsnr" in file.shapes)
    if pooled_width(structure) is None:
        raise ValueError(f"{file.path.name}: the U-Net is told a vector of {structure.added} numbers, which no family that is known has")
    if "edm_mean" in file.shapes:
        raise ValueError(f"{file.path.name}: this is a Playground 2.5 model, whose latents have another scale; it is not supported")
    predicts_v = "v_pred" in file.shapes or _said(file) == "v"
    return "sdxl", Process("v_prediction" if predicts_v else "epsilon", zero_terminal_snr="ztsnr" in file.shapes)


def _cosxl(file: TensorFile, structure: Structure) -> Process:
    """CosXL was trained on all levels between two that the file has."""
    if structure.inputs == 8:
        raise ValueError(f"{file.path.name}: this is a CosXL Edit model, which sees its picture in another scale; it is not supported")
    names = [f"edm_vpred.sigma_{end}" for end in ("min", "max") if f"edm_vpred.sigma_{end}" in file.shapes]
    told = {name: float(tensor) for name, tensor in file.read(names).items()}
    return Process("v_prediction", levels=(told.get("edm_vpred.sigma_min", COSXL_LEAST), told["edm_vpred.sigma_max"]))


def pooled_width(structure: Structure) -> int | None:
    """How wide the pooled text is that an SDXL U-Net is told: beside 6 numbers, or the refiner's 5. None where it is neither."""
    added = structure.added or 0
    if structure.context == added - 5 * SIZES:
        return added - 5 * SIZES
    return added - 6 * SIZES if added > 6 * SIZES and structure.context > added - 6 * SIZES else None


def _said(file: TensorFile) -> str | None:
    """What the file's metadata say of its prediction: "epsilon" or "v"; the second name is ComfyUI's."""
    return file.metadata.get("modelspec.prediction_type", file.metadata.get("modelspec.predict_key"))


def _predicts_v(part: Part, structure: Structure) -> bool:
    file = part.file
    if "v_pred" in file.shapes:
        return True
    if (said := _said(file)) is not None:
        return said == "v"
    if (beside := file.path.with_suffix(".yaml")).is_file():  # how 2.x checkpoints come with their configuration
        text = beside.read_text(encoding="utf-8", errors="replace")
        return any(line.split("#")[0].split(":")[-1].strip(" \"'") == "v" for line in text.splitlines() if "parameterization" in line)
    return spreads(structure, dict.fromkeys(file.shapes, file), part.prefix)


def spreads(structure: Structure, files: Mapping[str, TensorFile], prefix: str = "") -> bool:
    """Whether a U-Net that nothing tells of predicts v, by the spread of one norm's biases; `files` says where each weight lies."""
    if not structure.linear or structure.inputs != 4 or structure.added is not None:
        return False
    last = f"output_blocks.{sum(map(len, structure.up)) - 1}.1"
    for module in (last, structure.names().get(last)):
        key = f"{prefix}{module}.transformer_blocks.0.norm1.bias"
        if key in files:
            return float(files[key].read([key])[key].float().std(correction=0)) > V_SPREAD
    return False


def _vae(part: Part) -> None:
    config, name = part.structure, part.file.path.name
    if config["latent_channels"] != 4 or len(config["block_out_channels"]) != 4:
        raise ValueError(
            f"{name}: a VAE with 4 latent channels and 4 levels is wanted, {config['latent_channels']} and "
            f"{len(config['block_out_channels'])} found"
        )


def _check_text(file: TensorFile, family: str, structure: Structure, text: Sequence[Part]) -> None:
    width = sum(part.structure.width for part in text)
    if width != structure.context or (family == "sd1") != (len(text) == 1 and text[0].structure.name != "g"):
        raise ValueError(
            f"{file.path.name}: the U-Net reads text of width {structure.context}; "
            f"{' and '.join(_tell(part) for part in text)} found, which does not fit"
        )
