"""What travels on an edge: frozen dataclasses of tensors, scalars and other such dataclasses. "Modify" is ``dataclasses.replace``.

Tensors cannot be frozen; nobody writes into the tensor of a value. Values that hold tensors compare by identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from diffusion.process import DEFAULT_PROCESS, Process

if TYPE_CHECKING:
    from diffusion.guidance import Guidance
    from diffusion.patch import Patch


@dataclass(frozen=True, slots=True)
class WeightsRef:
    """Names one network in a file or folder; the weights themselves live on a device, for as long as it has room."""

    family: str  # a name in diffusion.family
    source: str  # absolute path of the checkpoint, a folder or a file
    part: str  # "unet", "text" or "vae"
    fingerprint: str  # changes when the file does
    dtype: str | None = None  # "float32", "float16", "bfloat16", or a float8 to round to; None: what suits the device
    beside: tuple[str, ...] = ()  # further files of the same part, as for two text encoders in two files


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A denoiser: a reference to weights, and descriptions of what is changed about it. Nothing is applied before a session opens."""

    socket: ClassVar[str] = "MODEL"
    weights: WeightsRef
    patches: tuple[Patch, ...] = ()
    process: Process = DEFAULT_PROCESS

    def patched(self, *patches: Patch) -> Self:
        """The same model with more patches; later ones wrap earlier ones."""
        return replace(self, patches=(*self.patches, *patches))


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A text encoder. ``last_layer`` -1 is the last one, -2 the one before ("clip skip 2"); None is the family's own choice."""

    socket: ClassVar[str] = "CLIP"
    weights: WeightsRef
    patches: tuple[Patch, ...] = ()
    last_layer: int | None = None

    def patched(self, *patches: Patch) -> Self:
        """The same text encoder with more patches."""
        return replace(self, patches=(*self.patches, *patches))


@dataclass(frozen=True, slots=True, eq=False)
class VAE:
    """An image autoencoder; its latents are unscaled."""

    socket: ClassVar[str] = "VAE"
    weights: WeightsRef


def _check(value: object, name: str, tensor: object, ndim: tuple[int, ...], shape: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{type(value).__name__}.{name}: a tensor {shape} is wanted, {type(tensor).__name__} given")
    if tensor.ndim not in ndim:
        raise ValueError(f"{type(value).__name__}.{name}: shape {shape} is wanted, {tuple(tensor.shape)} given")


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A batch of RGB images, [b, h, w, 3], floats from 0 to 1; a fourth channel is alpha."""

    socket: ClassVar[str] = "IMAGE"
    pixels: Tensor

    def __post_init__(self) -> None:
        _check(self, "pixels", self.pixels, (4,), "[b, h, w, 3]")
        if self.pixels.shape[-1] not in (3, 4):
            raise ValueError(f"Image.pixels: 3 or 4 channels last are wanted, shape {tuple(self.pixels.shape)} given")


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A batch of masks, [b, h, w], floats from 0 to 1; 1 is selected (may change). One alone may be given as [h, w]."""

    socket: ClassVar[str] = "MASK"
    values: Tensor

    def __post_init__(self) -> None:
        if isinstance(self.values, Tensor) and self.values.ndim == 2:
            object.__setattr__(self, "values", self.values[None])
        _check(self, "values", self.values, (3,), "[b, h, w]")


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """A batch of latents as the VAE makes them: not multiplied by the family's scale factor."""

    socket: ClassVar[str] = "LATENT"
    x: Tensor  # [b, c, h, w]
    noise_mask: Tensor | None = None  # [b or 1, 1, h', w'], any size; 1 = denoise
    batch_index: tuple[int, ...] | None = None  # which noise of a larger batch each row takes
    format: str | None = None  # name of the latent format (a family); None: not known, as for an empty latent

    def __post_init__(self) -> None:
        _check(self, "x", self.x, (4,), "[b, c, h, w]")
        if self.noise_mask is not None:
            _check(self, "noise_mask", self.noise_mask, (4,), "[b, 1, h, w]")
        if self.batch_index is not None and len(self.batch_index) != self.x.shape[0]:
            raise ValueError(f"Latent.batch_index: {self.x.shape[0]} indices are wanted, {len(self.batch_index)} given")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What each position of a token axis stands for; special tokens (begin, end, padding) have the span (-1, -1) and no word."""

    text: str  # the prompt without weights and brackets, which spans index
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # characters of `text` that the token covers
    words: tuple[int, ...]  # index of the word in `text` (see diffusion.text.words), -1 for special tokens
    weights: tuple[float, ...]
    chunk: int  # length of one encoded chunk, begin and end included
    vectors: tuple[Tensor, ...] = field(default=(), compare=False)  # learned embeddings; the id -1 - k stands for the k-th

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Area:
    """A rectangle of the picture: in latent cells, or as fractions of its height and width."""

    height: float
    width: float
    y: float
    x: float
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """What SDXL is told about a picture: pixels, and for the refiner an aesthetic score. What is None follows from the latent."""

    height: int | None = None
    width: int | None = None
    crop_h: int = 0
    crop_w: int = 0
    target_height: int | None = None
    target_width: int | None = None
    aesthetic: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cond:
    """One entry of a conditioning: what the network is told, and where and when it holds."""

    embeds: Tensor  # [1 or b, n, d]
    pooled: Tensor | None = None  # [1 or b, d]
    tokens: tuple[Tokens, ...] = ()  # one per row of embeds; empty when not known
    area: Area | None = None
    strength: float = 1.0
    mask: Tensor | None = None  # [1 or b, h, w], any size
    mask_strength: float = 1.0
    mask_bounds: bool = False  # evaluate only the bounding box of the mask
    start: float = 0.0  # active from this part of the noise range …
    end: float = 1.0  # … to this one; 0 is pure noise, 1 is clean
    per_step: Tensor | None = None  # [steps, 1 or b, n, d]: replaces embeds at sampling step k
    concat: Tensor | None = None  # [1 or b, c, h, w]: further input channels of the network, in model scale
    concat_latent: Tensor | None = None  # [1 or b, c, h, w]: the picture that inpainting and InstructPix2Pix networks see, unscaled …
    concat_mask: Tensor | None = None  # … and [1 or b, 1, h, w]: where it was erased, any size
    size: Size | None = None  # what SDXL is told about the picture's size
    control_embeds: Tensor | None = None  # [1 or b, n, d]: what control networks read instead of embeds
    patches: tuple[Patch, ...] = ()  # feature and attention patches that act on this entry's rows only

    def __post_init__(self) -> None:
        _check(self, "embeds", self.embeds, (3,), "[b, tokens, width]")


@dataclass(frozen=True, slots=True, eq=False)
class Conditioning:
    """Entries that are evaluated separately and averaged by weight where they overlap."""

    socket: ClassVar[str] = "CONDITIONING"
    entries: tuple[Cond, ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Cond]:
        return iter(self.entries)

    def map(self, **changes: Any) -> Self:
        """The same conditioning with these fields replaced in every entry."""
        return replace(self, entries=tuple(replace(e, **changes) for e in self.entries))


@dataclass(frozen=True, slots=True)
class Noise:
    """Where a sampler's noise comes from: a seed, or None for no noise at all."""

    socket: ClassVar[str] = "NOISE"
    seed: int | None


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampling algorithm by name, with its options. They are sorted by name; ``Sampler.of("lms", order=3)``."""

    socket: ClassVar[str] = "SAMPLER"
    name: str
    options: tuple[tuple[str, float | int | str | bool], ...] = ()

    @classmethod
    def of(cls, name: str, **options: float | int | str | bool) -> Self:
        """A sampler with these options."""
        return cls(name, tuple(sorted(options.items())))


@dataclass(frozen=True, slots=True, eq=False)
class Sigmas:
    """Noise levels to visit, [n + 1] for n steps, usually descending to 0."""

    socket: ClassVar[str] = "SIGMAS"
    values: Tensor

    def __post_init__(self) -> None:
        _check(self, "values", self.values, (1,), "[n]")

    def __len__(self) -> int:
        return int(self.values.shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Guider:
    """A model together with what guides it."""

    socket: ClassVar[str] = "GUIDER"
    model: Model
    guidance: Guidance


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Latents along a sampling or inversion path, index k from 0 (clean) to K (noisiest), in VE form and model scale."""

    socket: ClassVar[str] = "TRAJECTORY"
    latents: Tensor  # [K + 1, b, c, h, w]
    sigmas: Tensor  # [K + 1]
    noises: Tensor | None = None  # [K, b, c, h, w]: the noise that leads from level k + 1 to k, see diffusion.trajectory.posterior
    uncond: Tensor | None = None  # [K, 1 or b, n, d]: empty-prompt embedding of each step, noisiest first
    format: str | None = None
    eta: float = 0.0  # how stochastic the steps are that take the noises
    coupled: Tensor | None = None  # [K + 1, b, c, h, w]: the second of two coupled paths (EDICT)
    mixing: float = 1.0  # p, by which the coupled paths were mixed
    evaluations: int = 0  # how often the network was asked to make it, each branch counted; 0: not known
    pooled: Tensor | None = None  # [1 or b, d]: beside `uncond`, where another prompt than the empty one stands in for it

    def __post_init__(self) -> None:
        _check(self, "latents", self.latents, (5,), "[levels, b, c, h, w]")
        levels, shape = len(self.latents), tuple(self.latents.shape[1:])
        wanted = {"sigmas": (levels,), "noises": (levels - 1, *shape), "coupled": (levels, *shape)}
        for name, size in wanted.items():
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != size:
                raise ValueError(f"Trajectory.{name}: shape {size} is wanted, {tuple(tensor.shape)} given")
        if self.uncond is not None:
            _check(self, "uncond", self.uncond, (4,), "[steps, b, tokens, width]")
            if len(self.uncond) != levels - 1:
                raise ValueError(f"Trajectory.uncond: embeddings of {levels - 1} steps are wanted, of {len(self.uncond)} given")

    @property
    def steps(self) -> int:
        """K, the number of steps between its levels."""
        return len(self.latents) - 1


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMap:
    """Attention probabilities of one kind of site, averaged over what was asked for."""

    place: str  # "down", "mid" or "up"
    size: tuple[int, int]  # height and width of the queries
    cross: bool
    probs: Tensor  # [b, height * width, keys]


@dataclass(frozen=True, slots=True, eq=False)
class AttentionStore:
    """Attention maps gathered during a run, with the tokens that the keys of the cross-attention maps stand for."""

    socket: ClassVar[str] = "ATTENTION_STORE"
    maps: tuple[AttentionMap, ...]
    tokens: tuple[Tokens, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Feature:
    """The output of one named block at one sampling step."""

    block: str
    step: int
    h: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStore:
    """Block outputs gathered during a run."""

    socket: ClassVar[str] = "FEATURE_STORE"
    features: tuple[Feature, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Metrics:
    """Named figures, such as psnr, ssim and psnr_inside; inf and nan are possible."""

    socket: ClassVar[str] = "METRICS"
    values: tuple[tuple[str, float], ...]

    def __getitem__(self, name: str) -> float:
        return dict(self.values)[name]
