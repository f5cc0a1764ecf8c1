"""What saved graphs and the editor rely on: names, defaults, bounds, orders of choices and outputs."""

import importlib
import inspect
import pkgutil

import pytest

import nodes
from graph_engine.node import Node

MODULES = {name: importlib.import_module(f"nodes.{name}") for _, name, _ in pkgutil.iter_modules(nodes.__path__)}
SPECS = {
    found.spec.type: found.spec
    for module in MODULES.values()
    for found in vars(module).values()
    if inspect.isclass(found) and issubclass(found, Node) and "spec" in vars(found) and found.__module__ == module.__name__
}

# inputs with their defaults in order ("-": none); outputs by socket
CORE = {
    "CheckpointLoaderSimple": ("ckpt_name=-", "MODEL CLIP VAE"),
    "CLIPTextEncode": ("text=- clip=-", "CONDITIONING"),
    "CLIPSetLastLayer": ("clip=- stop_at_clip_layer=-1", "CLIP"),
    "ConditioningCombine": ("conditioning_1=- conditioning_2=-", "CONDITIONING"),
    "ConditioningAverage": ("conditioning_to=- conditioning_from=- conditioning_to_strength=1.0", "CONDITIONING"),
    "ConditioningConcat": ("conditioning_to=- conditioning_from=-", "CONDITIONING"),
    "ConditioningSetArea": ("conditioning=- width=64 height=64 x=0 y=0 strength=1.0", "CONDITIONING"),
    "ConditioningSetMask": ("conditioning=- mask=- strength=1.0 set_cond_area=default", "CONDITIONING"),
    "ConditioningSetTimestepRange": ("conditioning=- start=0.0 end=1.0", "CONDITIONING"),
    "ConditioningZeroOut": ("conditioning=-", "CONDITIONING"),
    "KSampler": (
        "model=- seed=0 steps=20 cfg=8.0 sampler_name=- scheduler=- positive=- negative=- latent_image=- denoise=1.0",
        "LATENT",
    ),
    "KSamplerAdvanced": (
        "model=- add_noise=enable noise_seed=0 steps=20 cfg=8.0 sampler_name=- scheduler=- positive=- negative=- latent_image=- "
        "start_at_step=0 end_at_step=10000 return_with_leftover_noise=disable",
        "LATENT",
    ),
    "SamplerCustom": (
        "model=- add_noise=True noise_seed=0 cfg=8.0 positive=- negative=- sampler=- sigmas=- latent_image=-",
        "LATENT LATENT",
    ),
    "SamplerCustomAdvanced": ("noise=- guider=- sampler=- sigmas=- latent_image=-", "LATENT LATENT"),
    "RandomNoise": ("noise_seed=0", "NOISE"),
    "DisableNoise": ("", "NOISE"),
    "BasicGuider": ("model=- conditioning=-", "GUIDER"),
    "CFGGuider": ("model=- positive=- negative=- cfg=8.0", "GUIDER"),
    "KSamplerSelect": ("sampler_name=-", "SAMPLER"),
    "BasicScheduler": ("model=- scheduler=- steps=20 denoise=1.0", "SIGMAS"),
    "KarrasScheduler": ("steps=20 sigma_max=14.614642 sigma_min=0.0291675 rho=7.0", "SIGMAS"),
    "ExponentialScheduler": ("steps=20 sigma_max=14.614642 sigma_min=0.0291675", "SIGMAS"),
    "SplitSigmas": ("sigmas=- step=0", "SIGMAS SIGMAS"),
    "SplitSigmasDenoise": ("sigmas=- denoise=1.0", "SIGMAS SIGMAS"),
    "FlipSigmas": ("sigmas=-", "SIGMAS"),
    "EmptyLatentImage": ("width=512 height=512 batch_size=1", "LATENT"),
    "VAEDecode": ("samples=- vae=-", "IMAGE"),
    "VAEEncode": ("pixels=- vae=-", "LATENT"),
    "VAEEncodeForInpaint": ("pixels=- vae=- mask=- grow_mask_by=6", "LATENT"),
    "SetLatentNoiseMask": ("samples=- mask=-", "LATENT"),
    "LatentUpscale": ("samples=- upscale_method=- width=512 height=512 crop=disabled", "LATENT"),
    "LatentUpscaleBy": ("samples=- upscale_method=- scale_by=1.5", "LATENT"),
    "LatentComposite": ("samples_to=- samples_from=- x=0 y=0 feather=0", "LATENT"),
    "LatentBlend": ("samples1=- samples2=- blend_factor=0.5", "LATENT"),
    "SaveLatent": ("samples=- filename_prefix=latents/ComfyUI", ""),
    "LoadImage": ("image=-", "IMAGE MASK"),
    "LoadImageMask": ("image=- channel=alpha", "MASK"),
    "SaveImage": ("images=- filename_prefix=ComfyUI", ""),
    "PreviewImage": ("images=-", ""),
    "ImageScale": ("image=- upscale_method=- width=512 height=512 crop=disabled", "IMAGE"),
    "ImageScaleBy": ("image=- upscale_method=- scale_by=1.0", "IMAGE"),
    "ImageInvert": ("image=-", "IMAGE"),
    "ImageBatch": ("image1=- image2=-", "IMAGE"),
    "EmptyImage": ("width=512 height=512 batch_size=1 color=0", "IMAGE"),
    "ImagePadForOutpaint": ("image=- left=0 top=0 right=0 bottom=0 feathering=40", "IMAGE MASK"),
    "MaskToImage": ("mask=-", "IMAGE"),
    "ImageToMask": ("image=- channel=red", "MASK"),
    "InvertMask": ("mask=-", "MASK"),
    "GrowMask": ("mask=- expand=0 tapered_corners=True", "MASK"),
    "FeatherMask": ("mask=- left=0 top=0 right=0 bottom=0", "MASK"),
    "ModelSamplingDiscrete": ("model=- sampling=- zsnr=False", "MODEL"),
    "ModelSamplingContinuousEDM": ("model=- sampling=- sigma_max=120.0 sigma_min=0.002", "MODEL"),
    "RescaleCFG": ("model=- multiplier=0.7", "MODEL"),
    "FreeU": ("model=- b1=1.1 b2=1.2 s1=0.9 s2=0.2", "MODEL"),
    "FreeU_V2": ("model=- b1=1.3 b2=1.4 s1=0.9 s2=0.2", "MODEL"),
    "PerturbedAttentionGuidance": ("model=- scale=3.0", "MODEL"),
    "SelfAttentionGuidance": ("model=- scale=0.5 blur_sigma=2.0", "MODEL"),
    "TomePatchModel": ("model=- ratio=0.3", "MODEL"),
    "HyperTile": ("model=- tile_size=256 swap_size=2 max_depth=0 scale_depth=False", "MODEL"),
    "PatchModelAddDownscale": (
        "model=- block_number=3 downscale_factor=2.0 start_percent=0.0 end_percent=0.35 downscale_after_skip=True "
        "downscale_method=bicubic upscale_method=bicubic",
        "MODEL",
    ),
    "DifferentialDiffusion": ("model=- strength=1.0", "MODEL"),
    "PerpNeg": ("model=- empty_conditioning=- neg_scale=1.0", "MODEL"),
    "PerpNegGuider": ("model=- positive=- negative=- empty_conditioning=- cfg=8.0 neg_scale=1.0", "GUIDER"),
    "VAEDecodeTiled": ("samples=- vae=- tile_size=512 overlap=64 temporal_size=64 temporal_overlap=8", "IMAGE"),
    "VAEEncodeTiled": ("pixels=- vae=- tile_size=512 overlap=64 temporal_size=64 temporal_overlap=8", "LATENT"),
    "RebatchLatents": ("latents=- batch_size=1", "LATENT"),
    "RebatchImages": ("images=- batch_size=1", "IMAGE"),
    "ImageScaleToTotalPixels": ("image=- upscale_method=- megapixels=1.0 resolution_steps=1", "IMAGE"),
    "UpscaleModelLoader": ("model_name=-", "UPSCALE_MODEL"),
    "CLIPVisionLoader": ("clip_name=-", "CLIP_VISION"),
    "CLIPVisionEncode": ("clip_vision=- image=- crop=center", "CLIP_VISION_OUTPUT"),
    "IPAdapterModelLoader": ("ipadapter_file=-", "IPADAPTER"),
    "IPAdapter": (
        "model=- ipadapter=- image=- weight=1.0 start_at=0.0 end_at=1.0 weight_type=standard attn_mask=None clip_vision=None",
        "MODEL",
    ),
    "ImageUpscaleWithModel": ("upscale_model=- image=-", "IMAGE"),
    "ImageBlur": ("image=- blur_radius=1 sigma=1.0", "IMAGE"),
    "ImageSharpen": ("image=- sharpen_radius=1 sigma=1.0 alpha=1.0", "IMAGE"),
    "ImageQuantize": ("image=- colors=256 dither=none", "IMAGE"),
    "PorterDuffImageComposite": ("source=- source_alpha=- destination=- destination_alpha=- mode=DST", "IMAGE MASK"),
    "SplitImageWithAlpha": ("image=-", "IMAGE MASK"),
    "JoinImageWithAlpha": ("image=- alpha=-", "IMAGE"),
    "LoadImageOutput": ("image=-", "IMAGE MASK"),
    "MaskPreview": ("mask=-", ""),
    "unCLIPCheckpointLoader": ("ckpt_name=-", "MODEL CLIP VAE CLIP_VISION"),
    "GLIGENLoader": ("gligen_name=-", "GLIGEN"),
    "GLIGENTextBoxApply": ("conditioning_to=- clip=- gligen_textbox_model=- text=- width=64 height=64 x=0 y=0", "CONDITIONING"),
    "PrimitiveInt": ("value=-", "INT"),
    "PrimitiveFloat": ("value=-", "FLOAT"),
    "PrimitiveString": ("value=-", "STRING"),
    "PrimitiveBoolean": ("value=-", "BOOLEAN"),
    "PreviewAny": ("source=-", ""),
}


@pytest.mark.parametrize("type", CORE)
def test_names_defaults_and_outputs_are_those_of_saved_graphs(type):
    spec, (inputs, outputs) = SPECS[type], CORE[type]
    declared = [f"{entry.name}={'-' if entry.required else entry.default}" for entry in spec.inputs]
    assert declared == inputs.split()
    assert [output.types[0] for output in spec.outputs] == outputs.split()


def test_the_outputs_of_custom_sampling_go_by_name():
    assert [output.name for output in SPECS["SamplerCustom"].outputs] == ["output", "denoised_output"]
    assert [output.name for output in SPECS["SplitSigmas"].outputs] == ["high_sigmas", "low_sigmas"]


def test_choices_stand_in_the_order_of_the_editor():
    choices = {name: SPECS[name] for name in ("KSampler", "ImageScale", "LatentUpscale", "LoadImageMask", "MaskComposite")}
    assert choices["KSampler"].input("scheduler").choices == (
        "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic", "kl_optimal",
    )  # fmt: skip
    assert choices["KSampler"].input("sampler_name").choices[0] == "euler"
    wanted = {"euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "lms", "ddim", "ddpm", "lcm", "uni_pc"}
    assert wanted <= set(choices["KSampler"].input("sampler_name").choices)
    assert choices["ImageScale"].input("upscale_method").choices == ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
    assert choices["LatentUpscale"].input("upscale_method").choices == ("nearest-exact", "bilinear", "area", "bicubic", "bislerp")
    assert choices["LoadImageMask"].input("channel").choices == ("alpha", "red", "green", "blue")
    assert choices["MaskComposite"].input("operation").choices == ("multiply", "add", "subtract", "and", "or", "xor")


def test_widgets_carry_what_the_editor_needs():
    seed, cfg, text = SPECS["KSampler"].input("seed"), SPECS["KSampler"].input("cfg"), SPECS["CLIPTextEncode"].input("text")
    assert (seed.minimum, seed.maximum, seed.widget["control_after_generate"]) == (0, 2**64 - 1, True)
    assert (cfg.minimum, cfg.maximum, cfg.step, cfg.widget["round"]) == (0, 100, 0.1, 0.01)
    assert text.widget["multiline"]
    assert text.widget["dynamicPrompts"]
    assert SPECS["LoadImage"].input("image").widget["image_upload"]
    assert SPECS["CheckpointLoaderSimple"].input("ckpt_name").embedded == {"toybox": "toybox:weights"}
    width = SPECS["EmptyLatentImage"].input("width")
    assert (width.minimum, width.maximum, width.step) == (16, 16384, 8)
    assert width.multiple_of is None  # saved graphs may hold any number
    assert SPECS["EmptyImage"].input("color").widget["display"] == "color"


def test_nodes_with_effects_are_wanted_by_default():
    outputs = {type for type, spec in SPECS.items() if spec.output}
    assert {"SaveImage", "PreviewImage", "SaveLatent", "PreviewAny", "ImageCompare", "AttributeProbe"} <= outputs
    assert not outputs & {"KSampler", "VAEDecode", "LoadImage"}


@pytest.mark.parametrize("type", SPECS)
def test_every_node_says_what_it_does_and_every_number_its_bounds(type):
    spec = SPECS[type]
    assert spec.description
    assert spec.category
    assert not spec.category.startswith("_")
    assert spec.title != spec.type or len(spec.type) <= len("KSampler"), "a title is words"
    assert all(entry.description for entry in spec.inputs), "an input without a tooltip"
    for entry in spec.inputs:
        if spec.module != "nodes.flow" and entry.types in (("INT",), ("FLOAT",)) and not entry.list:
            # without both the editor would assume 0 and 2048
            assert entry.minimum is not None, entry.name
            assert entry.maximum is not None, entry.name
            assert entry.step is not None, entry.name
            assert entry.description, entry.name


def test_no_two_nodes_have_the_same_title():
    titles = [spec.title for spec in SPECS.values()]
    assert sorted(set(titles)) == sorted(titles)


def test_nodes_import_no_other_nodes():
    for name, module in MODULES.items():
        imported = {line.split()[1] for line in inspect.getsource(module).splitlines() if line.startswith(("from nodes", "import nodes"))}
        assert imported <= {"nodes.params"}, name
