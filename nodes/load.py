"""Models from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeVar

from pydantic import Field

from diffusion.loading import open_checkpoint, open_clip, open_tiny_vae, open_unet, open_vae, pixel_space
from diffusion.values import VAE, Clip, Model
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import EMBEDDED, CheckpointFile

if TYPE_CHECKING:
    from graph_engine.context import Context

Opened = TypeVar("Opened")
ModelFolder = Annotated[str, File("diffusers"), Field(description="A folder in the diffusers layout.")]
EMBEDDED_UNETS = {"toybox_instruct": "toybox:weights/instruct"}
UNetFile = Annotated[
    str, File("diffusion_models", embedded=tuple(EMBEDDED_UNETS.items())), Field(description="A file or folder that has a U-Net.")
]
TextFile = Annotated[str, File("text_encoders"), Field(description="A file that has a CLIP text encoder.")]
TINY = "diffusion:family/tiny_vae.py"  # names that stand for code, whose weights lie elsewhere or which has none
NAMED_VAES = {"taesd": TINY, "taesdxl": TINY, "taesd3": TINY, "taef1": TINY, "pixel_space": "diffusion:family/pixel_space.py"}
VAEFile = Annotated[
    str,
    File("vae", embedded=tuple(NAMED_VAES.items())),
    Field(description="A file that has a VAE; taesd and taesdxl: a tiny one from the vae_approx folder; pixel_space: pictures as latents."),
]
OnDevice = Annotated[
    Literal["default", "cpu"],
    Field(description="Kept for saved graphs: weights move to the device while they are used, and back when room is wanted."),
]
NOT_HERE = "{type} models are not supported; {wanted} wanted"


class CheckpointLoaderSimple(Node, category="loaders", title="Load Checkpoint", aliases=("model", "checkpoint")):
    """Open a model with its text encoder and VAE; weights are read when they are first used."""

    ckpt_name: CheckpointFile

    class Out(NamedTuple):
        model: Model
        clip: Clip
        vae: VAE

    def run(self, ctx: Context) -> Out:
        path = ctx.path("checkpoints", self.ckpt_name, EMBEDDED)
        return self.Out(*_opened("ckpt_name", lambda: open_checkpoint(path)))


class CheckpointLoader(Node, category="loaders", title="Load Checkpoint With Config", deprecated=True):
    """As Load Checkpoint; the configuration is read off the weights, and only its name is kept, for saved graphs."""

    config_name: Annotated[str, Field(description="Not used: the weights tell.")]
    ckpt_name: CheckpointFile

    class Out(NamedTuple):
        model: Model
        clip: Clip
        vae: VAE

    def run(self, ctx: Context) -> Out:
        path = ctx.path("checkpoints", self.ckpt_name, EMBEDDED)
        return self.Out(*_opened("ckpt_name", lambda: open_checkpoint(path)))


class DiffusersLoader(Node, category="loaders", title="Load Diffusers Folder"):
    """Open a model with its text encoder and VAE from a folder in the diffusers layout."""

    model_path: ModelFolder

    class Out(NamedTuple):
        model: Model
        clip: Clip
        vae: VAE

    def run(self, ctx: Context) -> Out:
        path = ctx.path("diffusers", self.model_path)
        return self.Out(*_opened("model_path", lambda: open_checkpoint(path)))


class UNETLoader(Node, category="loaders", title="Load Diffusion Model", aliases=("unet", "diffusion model")):
    """Open a denoiser alone, from a file with the original names or diffusers'."""

    unet_name: UNetFile
    weight_dtype: Annotated[
        Literal["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"],
        Field(description="fp8: round the weights to 8 bits; arithmetic stays that of the device."),
    ] = "default"

    def run(self, ctx: Context) -> Model:
        path = ctx.path("diffusion_models", self.unet_name, EMBEDDED_UNETS)
        dtype = None if self.weight_dtype == "default" else self.weight_dtype.removesuffix("_fast").replace("fp8", "float8")
        return _opened("unet_name", lambda: open_unet(path, dtype))


class CLIPLoader(Node, category="loaders", title="Load CLIP", aliases=("text encoder",)):
    """Open one text encoder alone; CLIP-L, OpenCLIP ViT-H and bigG are told apart by their weights."""

    clip_name: TextFile
    type: Annotated[
        Literal["stable_diffusion", "stable_cascade", "sd3", "stable_audio", "mochi", "ltxv", "pixart", "cosmos", "lumina2", "wan"],
        Field(description="What it is for."),
    ] = "stable_diffusion"
    device: OnDevice = "default"

    def run(self, ctx: Context) -> Clip:
        if self.type != "stable_diffusion":
            raise NodeError(f"type: {NOT_HERE.format(type=self.type, wanted='stable_diffusion')}")
        path = ctx.path("text_encoders", self.clip_name)
        return _opened("clip_name", lambda: open_clip([path]))


class DualCLIPLoader(Node, category="loaders", title="Load Two CLIPs", aliases=("DualCLIP", "text encoder")):
    """Open SDXL's two text encoders from two files, in any order."""

    clip_name1: TextFile
    clip_name2: TextFile
    type: Annotated[Literal["sdxl", "sd3", "flux", "hunyuan_video", "hidream"], Field(description="What they are for.")]
    device: OnDevice = "default"

    def run(self, ctx: Context) -> Clip:
        if self.type != "sdxl":
            raise NodeError(f"type: {NOT_HERE.format(type=self.type, wanted='sdxl')}")
        paths = [ctx.path("text_encoders", name) for name in (self.clip_name1, self.clip_name2)]
        return _opened("clip_name1, clip_name2", lambda: open_clip(paths))


class VAELoader(Node, category="loaders", title="Load VAE"):
    """Open a VAE alone, from a file with the original names or diffusers'."""

    vae_name: VAEFile

    def run(self, ctx: Context) -> VAE:
        if self.vae_name == "pixel_space":
            return pixel_space()
        if self.vae_name in ("taesd3", "taef1"):
            raise NodeError(f"vae_name: {self.vae_name} reads latents of 16 channels, which no supported model makes; use taesd or taesdxl")
        if self.vae_name in NAMED_VAES:
            encoder, decoder = (_tiny_file(ctx, f"{self.vae_name}_{part}") for part in ("encoder", "decoder"))
            return _opened("vae_name", lambda: open_tiny_vae(encoder, decoder))
        path = ctx.path("vae", self.vae_name)
        return _opened("vae_name", lambda: open_vae(path))


def _tiny_file(ctx: Context, stem: str) -> Path:
    """The file of this name in the vae_approx folder, whatever it ends with; safetensors before pickles."""
    for suffix in (".safetensors", ".sft", ".pth", ".pt"):
        if (path := ctx.folders.find("vae_approx", stem + suffix)) is not None:
            return path
    raise NodeError(f"vae_name: {stem}.safetensors is wanted in the folder vae_approx, not found")


def _opened(field: str, open: Callable[[], Opened]) -> Opened:
    try:
        return open()
    except (ValueError, OSError) as problem:
        raise NodeError(f"{field}: {problem}") from problem
