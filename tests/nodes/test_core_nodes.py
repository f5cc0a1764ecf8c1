"""The core nodes that graphs of Stable Diffusion 1, 2 and XL use are all there, under the names of saved graphs."""

import pytest

from graph_engine.registry import Registry

TEXT = """
    CheckpointLoaderSimple CheckpointLoader unCLIPCheckpointLoader DiffusersLoader UNETLoader CLIPLoader DualCLIPLoader VAELoader
    LoraLoader LoraLoaderModelOnly LoraModelLoader ControlNetLoader DiffControlNetLoader CLIPVisionLoader GLIGENLoader
    UpscaleModelLoader LoadImage LoadImageMask LoadImageOutput LoadLatent CLIPTextEncode CLIPTextEncodeSDXL
    CLIPTextEncodeSDXLRefiner CLIPTextEncodeControlnet CLIPSetLastLayer ConditioningCombine ConditioningAverage ConditioningConcat
    ConditioningSetArea ConditioningSetAreaPercentage ConditioningSetAreaStrength ConditioningSetMask ConditioningSetTimestepRange
    ConditioningZeroOut CLIPVisionEncode unCLIPConditioning GLIGENTextBoxApply InpaintModelConditioning
    InstructPixToPixConditioning SD_4XUpscale_Conditioning ControlNetApply ControlNetApplyAdvanced SetUnionControlNetType KSampler
    KSamplerAdvanced SamplerCustom SamplerCustomAdvanced RandomNoise DisableNoise BasicGuider CFGGuider DualCFGGuider
    PerpNegGuider KSamplerSelect SamplerEulerAncestral SamplerDPMPP_2M_SDE SamplerDPMPP_SDE SamplerDPMPP_3M_SDE
    SamplerDPMPP_2S_Ancestral SamplerLMS SamplerDPMAdaptative BasicScheduler KarrasScheduler ExponentialScheduler
    PolyexponentialScheduler LaplaceScheduler VPScheduler BetaSamplingScheduler SDTurboScheduler AlignYourStepsScheduler
    SplitSigmas SplitSigmasDenoise FlipSigmas SetFirstSigma ManualSigmas ExtendIntermediateSigmas SamplingPercentToSigma AddNoise
    EmptyLatentImage VAEDecode VAEEncode VAEDecodeTiled VAEEncodeTiled VAEEncodeForInpaint SetLatentNoiseMask LatentUpscale
    LatentUpscaleBy LatentFromBatch RepeatLatentBatch LatentBatch RebatchLatents RebatchImages LatentBatchSeedBehavior
    LatentComposite LatentCompositeMasked LatentBlend LatentRotate LatentFlip LatentCrop LatentAdd LatentSubtract LatentMultiply
    LatentInterpolate SaveLatent SaveImage PreviewImage ImageScale ImageScaleBy ImageScaleToTotalPixels ImageUpscaleWithModel
    ImageInvert ImageFlip ImageRotate ImageCrop ImageBatch RepeatImageBatch ImageFromBatch EmptyImage ImagePadForOutpaint
    ImageBlend ImageBlur ImageSharpen ImageQuantize ImageCompositeMasked Canny GetImageSize MaskToImage ImageToMask
    ImageColorToMask SolidMask InvertMask CropMask ThresholdMask MaskComposite FeatherMask GrowMask PorterDuffImageComposite
    SplitImageWithAlpha JoinImageWithAlpha MaskPreview PreviewAny ModelSamplingDiscrete ModelSamplingContinuousEDM RescaleCFG FreeU
    FreeU_V2 PerturbedAttentionGuidance SelfAttentionGuidance TomePatchModel HyperTile PatchModelAddDownscale DifferentialDiffusion
    ModelMergeSimple ModelMergeBlocks ModelMergeAdd ModelMergeSubtract CLIPMergeSimple CLIPMergeAdd CLIPMergeSubtract CheckpointSave
    ModelSave CLIPSave VAESave LoraSave SaveLoRA PrimitiveInt PrimitiveFloat PrimitiveString PrimitiveStringMultiline PrimitiveBoolean
    StringConcatenate StringReplace StringSubstring StringLength StringTrim StringContains StringCompare CaseConverter RegexMatch
    RegexExtract RegexReplace ComfySwitchNode
"""
NAMES = TEXT.split()


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_installed(name, registry):
    assert name in registry


def test_old_ones_are_marked(registry):
    old = ("CheckpointLoader", "ControlNetApply", "LatentBatch", "ImageBatch")
    assert all(registry.specs[name].deprecated for name in old)


def test_the_vae_loader_offers_the_names_that_are_no_files(registry):
    assert list(registry.specs["VAELoader"].input("vae_name").embedded) == ["taesd", "taesdxl", "taesd3", "taef1", "pixel_space"]
