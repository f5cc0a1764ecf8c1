"""Where a run looks for each word: attention maps gathered while sampling, and drawn over the picture (Tang et al. 2023, "DAAM")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from PIL import ImageDraw
from pydantic import Field
from torch import Tensor

from diffusion.image import from_pil, to_pil
from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site
from diffusion.preview import jpeg
from diffusion.sample import sample
from diffusion.session import Net
from diffusion.text import token_indices, words
from diffusion.values import AttentionMap, AttentionStore, Guider, Image, Latent, Mask, Noise, Sampler, Sigmas, Tokens
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

BRANCH = "positive"
COLD_TO_HOT = ((0.0, 0.0, 0.2), (0.4, 0.0, 0.5), (0.85, 0.2, 0.3), (1.0, 0.65, 0.1), (1.0, 1.0, 0.7))


@dataclass(frozen=True, slots=True)
class Gather(AttentionPatch):
    """Keeps the mean over heads, layers and steps of the maps that the positive prompt's rows have at each place and size."""

    kinds: frozenset[bool]  # of `Site.cross`
    start: float
    end: float

    def begin(self, run: Run) -> Any:
        """Sums of this run's own."""
        return _Gathering(self)


@dataclass(slots=True, eq=False)
class _Gathering(AttentionPatch):
    patch: Gather
    sums: dict[tuple[str, tuple[int, int], bool], tuple[Tensor, int]] = field(default_factory=dict)

    def at_site(self, site: Site) -> bool:
        """The kinds that are wanted."""
        return site.cross in self.patch.kinds

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is, with its maps added up."""
        step, count = call.step.index, call.step.count
        if BRANCH not in call.rows or not int(self.patch.start * count + 1e-9) <= step < max(int(self.patch.end * count + 1e-9), 1):
            return next(call)
        first, batch = call.rows[BRANCH].start, call.rows.batch
        key = (call.site.place, call.site.size, call.site.cross)

        def keep(probs: Tensor) -> Tensor:
            mean = probs[first : first + batch].float().mean(1)
            if mean.shape[1] == call.site.size[0] * call.site.size[1]:  # a patch outside may have cut the queries down
                total, n = self.sums.get(key, (torch.zeros_like(mean), 0))
                self.sums[key] = total + mean, n + 1
            return probs

        return next(call.edit_probs(keep))

    def store(self, tokens: tuple[Tokens, ...]) -> AttentionStore:
        """What was gathered."""
        return AttentionStore(
            tuple(AttentionMap(place, size, cross, (total / n).cpu()) for (place, size, cross), (total, n) in self.sums.items()), tokens
        )


def word_map(store: AttentionStore, row: int, columns: tuple[int, ...], side: int = 0) -> Tensor:
    """The mean over places of a word's cross-attention map in one picture, [h, w] of the finest map; `side`: of that height only.

    Maps of different sizes are brought to the finest one bicubically. Raises ValueError where there are none.
    """
    maps = [m for m in store.maps if m.cross and side in (0, m.size[0])]
    if not maps:
        sides = sorted({m.size[0] for m in store.maps if m.cross})
        raise ValueError(
            f"side: 0 or a height of the gathered maps is wanted ({', '.join(map(str, sides)) or 'none gathered'}), {side} given"
        )
    finest = max((m.size for m in maps), key=lambda size: size[0] * size[1])
    grown = []
    for m in maps:
        looks = m.probs[row][:, list(columns)].sum(-1).view(1, 1, *m.size)
        grown.append(looks if m.size == finest else F.interpolate(looks, finest, mode="bicubic", align_corners=False))
    return torch.cat(grown).mean((0, 1)).clamp(min=0)


def heat(share: Tensor) -> Tensor:
    """Colours [..., 3] for shares from 0 (dark) to 1 (bright)."""
    colors = torch.tensor(COLD_TO_HOT)
    at = share.clamp(0, 1) * (len(colors) - 1)
    low = at.floor().long().clamp(max=len(colors) - 2)
    return torch.lerp(colors[low], colors[low + 1], (at - low)[..., None])


def lettered(pixels: Tensor, text: str) -> Tensor:
    """A picture [h, w, 3] with a word in its lower left corner."""
    picture = to_pil(pixels[None])[0]
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = draw.textbbox((0, 0), text)
    y = picture.height - (bottom - top) - 4
    draw.rectangle((0, y, right - left + 5, picture.height), fill=(0, 0, 0))
    draw.text((3 - left, y + 1 - top), text, fill=(255, 255, 255))
    return from_pil(picture)[0]


# nodes


class SamplerAttentionMaps(Node, category="editing/attention", title="Sampler with Attention Maps", aliases=("daam", "attention store")):
    """Sample as Sampler Custom (Advanced) does, and keep where the positive prompt's words were looked at on the way.

    Maps that PromptToPrompt edits are kept as edited. The result is that of a run without keeping, up to rounding.
    """

    noise: Noise
    guider: Guider
    sampler: Sampler
    sigmas: Annotated[Sigmas, Field(description="The noise levels to visit.")]
    latent_image: Annotated[Latent, Field(description="What to start from.")]
    kinds: Annotated[
        Literal["cross", "self", "both"],
        Field(description="cross: from picture to words; self: from picture to picture, which are large."),
    ] = "cross"
    start: Annotated[Unit, Field(description="Mean over the steps from this share …")] = 0.0
    end: Annotated[Unit, Field(description="… to this one.")] = 1.0

    class Out(NamedTuple):
        output: Annotated[Latent, Field(description="The latent at the last level.")]
        maps: Annotated[AttentionStore, Field(description="Mean maps by place and size, for ShowAttention.")]

    def run(self, ctx: Context) -> Out:
        if self.start > self.end:
            raise NodeError(f"start: at most end, which is {self.end}, is wanted, {self.start} given")
        kinds = frozenset({"cross": (True,), "self": (False,), "both": (True, False)}[self.kinds])
        gather, found = Gather(kinds, self.start, self.end), []

        def inspect(net: Net) -> None:
            found.append(net.state(gather).store(net.branches[BRANCH].entries[0].tokens))

        guider = Guider(self.guider.model.patched(gather), self.guider.guidance)
        output, _ = sample(
            guider,
            self.noise,
            self.sampler,
            self.sigmas,
            self.latent_image,
            ctx.device,
            on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, guider.model.weights)),
            inspect=inspect,
        )
        return self.Out(output, found[0] if found else AttentionStore(()))


class ShowAttention(Node, category="editing/attention", title="Show Attention", output=True, aliases=("heat map", "daam")):
    """Draw where words were looked at, one picture a word: dark where little, bright where much."""

    maps: Annotated[AttentionStore, Field(description="From SamplerAttentionMaps.")]
    image: Annotated[Image | None, Field(description="What was sampled, to draw over.")] = None
    words: Annotated[str, Field(description="Words or phrases of the prompt, separated by commas; empty: each of its words.")] = ""
    picture: Annotated[int, number(0, 4095, 1, "Which of the batch, counted from 0.")] = 0
    side: Annotated[int, number(0, 1024, 1, "Take only maps of this height in cells; 0 takes the mean over all sizes.")] = 0
    scale: Annotated[
        Literal["word", "all"],
        Field(description="What is brightest: the most that each word was looked at, or the most that any was."),
    ] = "word"
    opacity: Annotated[Unit, Field(description="Of the map over the picture.")] = 0.65
    label: Annotated[bool, Field(description="Write each word into its picture.")] = True

    class Out(NamedTuple):
        image: Annotated[Image, Field(description="A picture a word.")]
        mask: Annotated[Mask, Field(description="The maps themselves, 1 where a word is looked at most.")]

    def run(self, ctx: Context) -> Out:
        tokens = self._tokens()
        chosen = [word.strip() for word in self.words.split(",") if word.strip()]
        if chosen:
            columns = [token_indices(tokens, word, name="words") for word in chosen]
        else:
            spans = words(tokens.text)
            positions = [tuple(i for i, word in enumerate(tokens.words) if word == w) for w in range(len(spans))]
            chosen = [tokens.text[a:b] for (a, b), at in zip(spans, positions, strict=True) if at]
            columns = [at for at in positions if at]
        if not chosen:
            raise NodeError("words: a prompt with words is wanted, this one is empty")
        shares = torch.stack([word_map(self.maps, self.picture, at, self.side) for at in columns])
        most = shares.amax((1, 2), keepdim=True) if self.scale == "word" else shares.amax()
        shares = shares / most.clamp(min=1e-12)
        under = None if self.image is None else self.image.pixels[self.picture % len(self.image.pixels), ..., :3].cpu()
        size = tuple(8 * side for side in shares.shape[1:]) if under is None else tuple(under.shape[:2])
        shares = F.interpolate(shares[:, None], size, mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)
        drawn = heat(shares)
        if under is not None:
            drawn = torch.lerp(under.expand_as(drawn), drawn, self.opacity)
        if self.label:
            drawn = torch.stack([lettered(pixels, word) for pixels, word in zip(drawn, chosen, strict=True)])
        ctx.show(text=[", ".join(chosen)])
        return self.Out(Image(drawn), Mask(shares))

    def _tokens(self) -> Tokens:
        rows = self.maps.maps[0].probs.shape[0] if self.maps.maps else 0
        if self.picture >= rows:
            raise NodeError(f"picture: 0 to {rows - 1} is wanted by maps of {rows} pictures, {self.picture} given")
        if not self.maps.tokens:
            raise NodeError("maps: those of an encoded prompt are wanted, these do not know which words they belong to")
        return self.maps.tokens[self.picture % len(self.maps.tokens)]
