"""What saved graphs and the editor rely on: names, defaults, bounds, orders of choices and outputs."""

import importlib
import inspect
import pkgutil
import re

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
    "CheckpointLoader": ("config_name=- ckpt_name=-", "MODEL CLIP VAE"),
    "DiffusersLoader": ("model_path=-", "MODEL CLIP VAE"),
    "UNETLoader": ("unet_name=- weight_dtype=default", "MODEL"),
    "CLIPLoader": ("clip_name=- type=stable_diffusion device=default", "CLIP"),
    "DualCLIPLoader": ("clip_name1=- clip_name2=- type=- device=default", "CLIP"),
    "VAELoader": ("vae_name=-", "VAE"),
    "LoraLoader": ("model=- clip=- lora_name=- strength_model=1.0 strength_clip=1.0", "MODEL CLIP"),
    "LoraLoaderModelOnly": ("model=- lora_name=- strength_model=1.0", "MODEL"),
    "LoraModelLoader": ("model=- lora=- strength_model=1.0", "MODEL"),
    "HypernetworkLoader": ("model=- hypernetwork_name=- strength=1.0", "MODEL"),
    "ControlNetLoader": ("control_net_name=-", "CONTROL_NET"),
    "DiffControlNetLoader": ("model=- control_net_name=-", "CONTROL_NET"),
    "StyleModelLoader": ("style_model_name=-", "STYLE_MODEL"),
    "LoadLatent": ("latent=-", "LATENT"),
    "CLIPTextEncodeSDXL": (
        "clip=- width=1024 height=1024 crop_w=0 crop_h=0 target_width=1024 target_height=1024 text_g=- text_l=-",
        "CONDITIONING",
    ),
    "CLIPTextEncodeSDXLRefiner": ("ascore=6.0 width=1024 height=1024 text=- clip=-", "CONDITIONING"),
    "CLIPTextEncodeControlnet": ("clip=- conditioning=- text=-", "CONDITIONING"),
    "ConditioningSetAreaPercentage": ("conditioning=- width=1.0 height=1.0 x=0.0 y=0.0 strength=1.0", "CONDITIONING"),
    "ConditioningSetAreaStrength": ("conditioning=- strength=1.0", "CONDITIONING"),
    "unCLIPConditioning": ("conditioning=- clip_vision_output=- strength=1.0 noise_augmentation=0.0", "CONDITIONING"),
    "StyleModelApply": ("conditioning=- style_model=- clip_vision_output=- strength=1.0 strength_type=multiply", "CONDITIONING"),
    "InpaintModelConditioning": ("positive=- negative=- vae=- pixels=- mask=- noise_mask=True", "CONDITIONING CONDITIONING LATENT"),
    "InstructPixToPixConditioning": ("positive=- negative=- vae=- pixels=-", "CONDITIONING CONDITIONING LATENT"),
    "SD_4XUpscale_Conditioning": (
        "images=- positive=- negative=- scale_ratio=4.0 noise_augmentation=0.0",
        "CONDITIONING CONDITIONING LATENT",
    ),
    "ControlNetApply": ("conditioning=- control_net=- image=- strength=1.0", "CONDITIONING"),
    "ControlNetApplyAdvanced": (
        "positive=- negative=- control_net=- image=- strength=1.0 start_percent=0.0 end_percent=1.0 vae=None",
        "CONDITIONING CONDITIONING",
    ),
    "SetUnionControlNetType": ("control_net=- type=auto", "CONTROL_NET"),
    "DualCFGGuider": ("model=- cond1=- cond2=- negative=- cfg_conds=8.0 cfg_cond2_negative=8.0 style=regular", "GUIDER"),
    "SamplerEulerAncestral": ("eta=1.0 s_noise=1.0", "SAMPLER"),
    "SamplerDPMPP_2M_SDE": ("solver_type=midpoint eta=1.0 s_noise=1.0 noise_device=gpu", "SAMPLER"),
    "SamplerDPMPP_SDE": ("eta=1.0 s_noise=1.0 r=0.5 noise_device=gpu", "SAMPLER"),
    "SamplerDPMPP_3M_SDE": ("eta=1.0 s_noise=1.0 noise_device=gpu", "SAMPLER"),
    "SamplerDPMPP_2S_Ancestral": ("eta=1.0 s_noise=1.0", "SAMPLER"),
    "SamplerLMS": ("order=4", "SAMPLER"),
    "SamplerDPMAdaptative": (
        "order=3 rtol=0.05 atol=0.0078 h_init=0.05 pcoeff=0.0 icoeff=1.0 dcoeff=0.0 accept_safety=0.81 eta=0.0 s_noise=1.0",
        "SAMPLER",
    ),
    "PolyexponentialScheduler": ("steps=20 sigma_max=14.614642 sigma_min=0.0291675 rho=1.0", "SIGMAS"),
    "LaplaceScheduler": ("steps=20 sigma_max=14.614642 sigma_min=0.0291675 mu=0.0 beta=0.5", "SIGMAS"),
    "VPScheduler": ("steps=20 beta_d=19.9 beta_min=0.1 eps_s=0.001", "SIGMAS"),
    "BetaSamplingScheduler": ("model=- steps=20 alpha=0.6 beta=0.6", "SIGMAS"),
    "SDTurboScheduler": ("model=- steps=1 denoise=1.0", "SIGMAS"),
    "AlignYourStepsScheduler": ("model_type=SD1 steps=10 denoise=1.0", "SIGMAS"),
    "SetFirstSigma": ("sigmas=- sigma=136.0", "SIGMAS"),
    "ManualSigmas": ("sigmas=1, 0.5", "SIGMAS"),
    "ExtendIntermediateSigmas": ("sigmas=- steps=2 start_at_sigma=-1.0 end_at_sigma=12.0 spacing=linear", "SIGMAS"),
    "SamplingPercentToSigma": ("model=- sampling_percent=0.0 return_actual_sigma=False", "FLOAT"),
    "AddNoise": ("model=- noise=- sigmas=- latent_image=-", "LATENT"),
    "LatentFromBatch": ("samples=- batch_index=0 length=1", "LATENT"),
    "RepeatLatentBatch": ("samples=- amount=1", "LATENT"),
    "LatentBatch": ("samples1=- samples2=-", "LATENT"),
    "LatentBatchSeedBehavior": ("samples=- seed_behavior=fixed", "LATENT"),
    "LatentCompositeMasked": ("destination=- source=- x=0 y=0 resize_source=False mask=None", "LATENT"),
    "LatentRotate": ("samples=- rotation=none", "LATENT"),
    "LatentFlip": ("samples=- flip_method=x-axis: vertically", "LATENT"),
    "LatentCrop": ("samples=- width=512 height=512 x=0 y=0", "LATENT"),
    "LatentAdd": ("samples1=- samples2=-", "LATENT"),
    "LatentSubtract": ("samples1=- samples2=-", "LATENT"),
    "LatentMultiply": ("samples=- multiplier=1.0", "LATENT"),
    "LatentInterpolate": ("samples1=- samples2=- ratio=1.0", "LATENT"),
    "ImageFlip": ("image=- flip_method=x-axis: vertically", "IMAGE"),
    "ImageRotate": ("image=- rotation=none", "IMAGE"),
    "ImageCrop": ("image=- width=512 height=512 x=0 y=0", "IMAGE"),
    "RepeatImageBatch": ("image=- amount=1", "IMAGE"),
    "ImageFromBatch": ("image=- batch_index=0 length=1", "IMAGE"),
    "ImageBlend": ("image1=- image2=- blend_factor=0.5 blend_mode=normal", "IMAGE"),
    "ImageCompositeMasked": ("destination=- source=- x=0 y=0 resize_source=False mask=None", "IMAGE"),
    "Canny": ("image=- low_threshold=0.4 high_threshold=0.8", "IMAGE"),
    "GetImageSize": ("image=-", "INT INT INT"),
    "ImageColorToMask": ("image=- color=0", "MASK"),
    "SolidMask": ("value=1.0 width=512 height=512", "MASK"),
    "CropMask": ("mask=- x=0 y=0 width=512 height=512", "MASK"),
    "ThresholdMask": ("mask=- value=0.5", "MASK"),
    "MaskComposite": ("destination=- source=- x=0 y=0 operation=multiply", "MASK"),
    "ModelMergeSimple": ("model1=- model2=- ratio=1.0", "MODEL"),
    "ModelMergeBlocks": ("model1=- model2=- input=1.0 middle=1.0 out=1.0", "MODEL"),
    "ModelMergeAdd": ("model1=- model2=-", "MODEL"),
    "ModelMergeSubtract": ("model1=- model2=- multiplier=1.0", "MODEL"),
    "CLIPMergeSimple": ("clip1=- clip2=- ratio=1.0", "CLIP"),
    "CheckpointSave": ("model=- clip=- vae=- filename_prefix=checkpoints/ComfyUI", ""),
    "ModelSave": ("model=- filename_prefix=diffusion_models/ComfyUI", ""),
    "CLIPSave": ("clip=- filename_prefix=clip/ComfyUI", ""),
    "VAESave": ("vae=- filename_prefix=vae/ComfyUI_vae", ""),
    "LoraSave": (
        "filename_prefix=loras/ComfyUI_extracted_lora rank=8 lora_type=standard bias_diff=True model_diff=None text_encoder_diff=None",
        "",
    ),
    "SaveLoRA": ("lora=- prefix=loras/ComfyUI_trained_lora steps=None", ""),
    "PrimitiveStringMultiline": ("value=-", "STRING"),
    "StringConcatenate": ("string_a=- string_b=- delimiter=", "STRING"),
    "StringReplace": ("string=- find=- replace=", "STRING"),
    "RegexExtract": (
        "string=- regex_pattern=- mode=First Match case_insensitive=True multiline=False dotall=False group_index=1",
        "STRING",
    ),
    "RegexMatch": ("string=- regex_pattern=- case_insensitive=True multiline=False dotall=False", "BOOLEAN"),
    "RegexReplace": ("string=- regex_pattern=- replace=- case_insensitive=True multiline=False dotall=False count=0", "STRING"),
    "StringContains": ("string=- substring=- case_sensitive=True", "BOOLEAN"),
    "StringCompare": ("string_a=- string_b=- mode=Starts With case_sensitive=True", "BOOLEAN"),
    "StringSubstring": ("string=- start=0 end=2147483647", "STRING"),
    "StringLength": ("string=-", "INT"),
    "CaseConverter": ("string=- mode=UPPERCASE", "STRING"),
    "StringTrim": ("string=- mode=Both", "STRING"),
    "ComfySwitchNode": ("switch=- on_false=- on_true=-", "*"),
    "CLIPMergeAdd": ("clip1=- clip2=-", "CLIP"),
    "CLIPMergeSubtract": ("clip1=- clip2=- multiplier=1.0", "CLIP"),
}

# what a number may be and what the editor's arrows add to it
BOUNDS = {
    (-100, 100, 0.01): """
        LoraLoader.strength_model LoraLoader.strength_clip LoraLoaderModelOnly.strength_model LoraModelLoader.strength_model
    """,
    (-10, 10, 0.01): """
        HypernetworkLoader.strength unCLIPConditioning.strength LatentMultiply.multiplier ModelMergeSubtract.multiplier
        CLIPMergeSubtract.multiplier
    """,
    (0, 16384, 1): """
        CLIPTextEncodeSDXL.width CLIPTextEncodeSDXL.height CLIPTextEncodeSDXL.crop_w CLIPTextEncodeSDXL.crop_h
        CLIPTextEncodeSDXL.target_width CLIPTextEncodeSDXL.target_height CLIPTextEncodeSDXLRefiner.width
        CLIPTextEncodeSDXLRefiner.height ImageScale.width ImageScale.height ImageCrop.x ImageCrop.y
        ImagePadForOutpaint.feathering ImageCompositeMasked.x ImageCompositeMasked.y CropMask.x CropMask.y MaskComposite.x
        MaskComposite.y FeatherMask.left FeatherMask.top FeatherMask.right FeatherMask.bottom
    """,
    (0, 1000, 0.01): "CLIPTextEncodeSDXLRefiner.ascore",
    (-24, -1, 1): "CLIPSetLastLayer.stop_at_clip_layer",
    (0, 1, 0.01): """
        ConditioningAverage.conditioning_to_strength ConditioningSetAreaPercentage.width ConditioningSetAreaPercentage.height
        ConditioningSetAreaPercentage.x ConditioningSetAreaPercentage.y unCLIPConditioning.noise_augmentation
        LatentBlend.blend_factor LatentInterpolate.ratio ImageBlend.blend_factor SolidMask.value ThresholdMask.value
        RescaleCFG.multiplier TomePatchModel.ratio DifferentialDiffusion.strength ModelMergeSimple.ratio
        ModelMergeBlocks.input ModelMergeBlocks.middle ModelMergeBlocks.out CLIPMergeSimple.ratio
    """,
    (64, 16384, 8): "ConditioningSetArea.width ConditioningSetArea.height LatentCrop.width LatentCrop.height",
    (0, 16384, 8): """
        ConditioningSetArea.x ConditioningSetArea.y GLIGENTextBoxApply.x GLIGENTextBoxApply.y LatentUpscale.width
        LatentUpscale.height LatentComposite.x LatentComposite.y LatentComposite.feather LatentCompositeMasked.x
        LatentCompositeMasked.y LatentCrop.x LatentCrop.y ImagePadForOutpaint.left ImagePadForOutpaint.top
        ImagePadForOutpaint.right ImagePadForOutpaint.bottom
    """,
    (0, 10, 0.01): """
        ConditioningSetArea.strength ConditioningSetAreaPercentage.strength ConditioningSetAreaStrength.strength
        ConditioningSetMask.strength SD_4XUpscale_Conditioning.scale_ratio ControlNetApply.strength
        ControlNetApplyAdvanced.strength FreeU.b1 FreeU.b2 FreeU.s1 FreeU.s2 FreeU_V2.b1 FreeU_V2.b2 FreeU_V2.s1 FreeU_V2.s2
    """,
    (0, 1, 0.001): """
        ConditioningSetTimestepRange.start ConditioningSetTimestepRange.end SD_4XUpscale_Conditioning.noise_augmentation
        ControlNetApplyAdvanced.start_percent ControlNetApplyAdvanced.end_percent PatchModelAddDownscale.start_percent
        PatchModelAddDownscale.end_percent
    """,
    (0, 10, 0.001): "StyleModelApply.strength",
    (8, 16384, 8): "GLIGENTextBoxApply.width GLIGENTextBoxApply.height",
    (16, 16384, 8): "EmptyLatentImage.width EmptyLatentImage.height",
    (1, 4096, 1): """
        EmptyLatentImage.batch_size RebatchLatents.batch_size RebatchImages.batch_size RepeatImageBatch.amount
        ImageFromBatch.length EmptyImage.batch_size LoraSave.rank
    """,
    (64, 4096, 32): "VAEDecodeTiled.tile_size",
    (0, 4096, 32): "VAEDecodeTiled.overlap VAEEncodeTiled.overlap",
    (8, 4096, 4): "VAEDecodeTiled.temporal_size VAEEncodeTiled.temporal_size",
    (4, 4096, 4): "VAEDecodeTiled.temporal_overlap VAEEncodeTiled.temporal_overlap",
    (64, 4096, 64): "VAEEncodeTiled.tile_size",
    (0, 64, 1): "VAEEncodeForInpaint.grow_mask_by",
    (0.01, 8, 0.01): "LatentUpscaleBy.scale_by ImageScaleBy.scale_by",
    (0, 63, 1): "LatentFromBatch.batch_index",
    (1, 64, 1): "LatentFromBatch.length RepeatLatentBatch.amount",
    (0.01, 16, 0.01): "ImageScaleToTotalPixels.megapixels",
    (1, 256, 1): "ImageScaleToTotalPixels.resolution_steps ImageQuantize.colors",
    (1, 16384, 1): """
        ImageCrop.width ImageCrop.height EmptyImage.width EmptyImage.height SolidMask.width SolidMask.height CropMask.width
        CropMask.height
    """,
    (0, 4095, 1): "ImageFromBatch.batch_index",
    (0, 0xFFFFFF, 1): "EmptyImage.color ImageColorToMask.color",
    (1, 31, 1): "ImageBlur.blur_radius ImageSharpen.sharpen_radius",
    (0.1, 10, 0.1): "ImageBlur.sigma",
    (0.1, 10, 0.01): "ImageSharpen.sigma",
    (0, 5, 0.01): "ImageSharpen.alpha",
    (0.01, 0.99, 0.01): "Canny.low_threshold Canny.high_threshold",
    (-16384, 16384, 1): "GrowMask.expand",
    (0, 1000, 0.001): "ModelSamplingContinuousEDM.sigma_max ModelSamplingContinuousEDM.sigma_min",
    (0, 100, 0.01): "PerturbedAttentionGuidance.scale",
    (-2, 5, 0.01): "SelfAttentionGuidance.scale",
    (0, 10, 0.1): "SelfAttentionGuidance.blur_sigma",
    (1, 2048, 1): "HyperTile.tile_size",
    (1, 128, 1): "HyperTile.swap_size",
    (0, 10, 1): "HyperTile.max_depth",
    (1, 32, 1): "PatchModelAddDownscale.block_number",
    (0.1, 9, 0.001): "PatchModelAddDownscale.downscale_factor",
    (0, 100, 1): "RegexExtract.group_index RegexReplace.count",
}


@pytest.mark.parametrize("type", CORE)
def test_names_defaults_and_outputs_are_those_of_saved_graphs(type):
    spec, (inputs, outputs) = SPECS[type], CORE[type]
    declared = [f"{entry.name}={'-' if entry.required else entry.default}" for entry in spec.inputs]
    assert declared == (re.split(r" (?=\w+=)", inputs) if inputs else [])  # a default may hold spaces
    assert "=".join(declared).count("=") == 2 * len(spec.inputs) - bool(spec.inputs)
    assert [output.types[0] for output in spec.outputs] == outputs.split()


@pytest.mark.parametrize(("bounds", "names"), BOUNDS.items())
def test_numbers_have_the_bounds_and_steps_of_saved_graphs(bounds, names):
    for name in names.split():
        type, field = name.split(".")
        found = SPECS[type].input(field)
        assert (found.minimum, found.maximum, found.step) == bounds, name
        assert (found.above, found.below) == (False, False), name


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
