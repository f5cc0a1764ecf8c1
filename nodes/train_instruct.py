"""Training InstructPix2Pix (Brooks et al. 2023) on pairs of pictures and the instruction that leads from one to the other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.family import family
from diffusion.guidance import Conditional
from diffusion.lora.apply import LoraPatch
from diffusion.session import Net, open_session
from diffusion.text import encode as encode_text
from diffusion.training import noise_loss, trained
from diffusion.vae import encode
from diffusion.values import VAE, Clip, Cond, Conditioning, Image, Model
from diffusion.weights import Delta
from diffusion.widen import seeing
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Seed, Text, number

if TYPE_CHECKING:
    from graph_engine.context import Context

SEES = "conv_in"  # the layer that the picture comes in by; always trained in full


def shown(texts: list[Cond], nothing: Cond, before: Tensor, rows: list[int], dropout: float, lot: torch.Generator) -> Conditioning:
    """What the network is told and shown of some pairs, as one entry of so many rows, with something left out of some (sec. 3.2.1).

    Of one number r in 0..1 for each pair: below 2·dropout the words are left out, from dropout to 3·dropout the picture; so each alone and
    both together are left out at a rate of `dropout`.
    """
    r = torch.rand(len(rows), generator=lot)
    told = [nothing if r[i] < 2 * dropout else texts[row] for i, row in enumerate(rows)]
    seen = ((r < dropout) | (r >= 3 * dropout)).to(before)[:, None, None, None]
    pooled = [each.pooled for each in told if each.pooled is not None]
    entry = replace(
        nothing,
        embeds=torch.cat([each.embeds for each in told]),
        pooled=torch.cat(pooled) if pooled else None,
        tokens=(),
        concat_latent=before[rows] * seen,
    )
    return Conditioning((entry,))


def learn(
    net: Net, texts: list[Cond], nothing: Cond, before: Tensor, after: Tensor, how: TrainInstruct, lot: torch.Generator, ctx: Context
) -> tuple[tuple[Delta, ...], list[float]]:
    """The changes of the weights under which `before` and words give `after` (both [n, c, h, w], the first unscaled), and the losses.

    The loss is the noise-prediction loss on the edited picture (eq. 2).
    """
    losses = list[float]()
    with trained(net, how.rank, lot, whole=(SEES,)) as layers:
        optimizer = torch.optim.Adam([parameter for layer in layers for parameter in layer.parameters], lr=how.learning_rate)
        left = list[int]()
        for i in range(how.steps):
            while len(left) < how.batch:  # each pair comes as often as every other
                left += torch.randperm(len(texts), generator=lot).tolist()
            rows, left = left[: how.batch], left[how.batch :]
            told = shown(texts, nothing, before, rows, how.dropout, lot)
            loss = noise_loss(net, told, after[rows], how.levels, lot)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            ctx.step(i + 1, how.steps)
        return tuple(layer.change() for layer in layers), losses


# node


class TrainInstruct(Node, category="editing/instruct_pix2pix", title="Train InstructPix2Pix", aliases=("instruct pix2pix", "fine-tune")):
    """Teach a model to edit pictures as words ask for, from examples of before, after and instruction (Brooks et al. 2023, sec. 3.2).

    A plain model gets the further input channels in which it sees the picture, at first without effect. Save it with Save Model.
    """

    model: Annotated[Model, Field(description="A text-to-image model, or one that follows instructions already; it stays as it is.")]
    clip: Annotated[Clip, Field(description="Its text encoder, which is not trained.")]
    vae: Annotated[VAE, Field(description="Its VAE.")]
    before: Annotated[Image, Field(description="The pictures to edit.")]
    after: Annotated[Image, Field(description="The same pictures edited, in the same order and size.")]
    instructions: Annotated[Text, Field(description="What was done, one line for each pair, or one line for all.")]
    steps: Annotated[int, number(0, 1_000_000, 1, "Optimisation steps; 0 gives the model as it starts.")] = 200
    learning_rate: Annotated[float, number(0, 1, 0.0001, "Learning rate of Adam.", round=0.000001)] = 0.0001
    batch: Annotated[int, number(1, 1024, 1, "Pairs in each step.")] = 4
    levels: Annotated[int, number(1, 64, 1, "Noise levels in each step, at which its pairs are asked for.")] = 2
    rank: Annotated[int, number(0, 256, 1, "Of the change of each attention layer; 0: full changes of all layers.")] = 0
    dropout: Annotated[
        float, number(0, 0.3, 0.01, "Share of pairs without words, as many without the picture, as many without both: guidance needs it.")
    ] = 0.05
    seed: Seed = 0

    class Out(NamedTuple):
        model: Annotated[Model, Field(description="The model with 8 input channels and what it learned.")]
        loss: Annotated[float, Field(description="The mean loss of the last tenth of the steps; 0 without steps.")]

    def run(self, ctx: Context) -> Out:
        lines = self._lines()
        try:
            model = seeing(self.model, ctx.device)
        except ValueError as problem:
            raise NodeError(str(problem)) from problem
        known = {line: self._encoded(line, ctx) for line in {*lines, ""}}
        nothing, texts = known[""], [known[line] for line in lines]
        if odd := next((line for line in known if known[line].embeds.shape != nothing.embeds.shape), None):
            raise NodeError(f"instructions: a line that fits one chunk of the text encoder is wanted, {odd!r} given")
        scale = family(self.model.weights.family).latent.scale
        before, after = (encode(self.vae, each, ctx.device).x.to(ctx.device.torch, torch.float32) for each in (self.before, self.after))
        with open_session(model, Conditional(Conditioning((nothing,))), ctx.device, shape=after[: self.batch].shape) as net:
            lot = torch.Generator().manual_seed(self.seed)
            with torch.enable_grad():
                items, losses = learn(net, texts, nothing, before, after * scale, self, lot, ctx)
        tail = losses[-max(1, len(losses) // 10) :]
        learned = model.patched(LoraPatch("instruct", items, 1.0)) if losses else model
        return self.Out(learned, sum(tail) / len(tail) if tail else 0.0)

    def _lines(self) -> list[str]:
        """The instruction of each pair."""
        before, after = self.before.pixels.shape, self.after.pixels.shape
        if before[:3] != after[:3]:
            raise NodeError(f"after: as many pictures of the same size as before are wanted, {_said(before)}; {_said(after)} given")
        lines = [line.strip() for line in self.instructions.splitlines() if line.strip()]
        if len(lines) not in (1, before[0]):
            raise NodeError(f"instructions: 1 line or {before[0]} are wanted, one for each pair; {len(lines)} given")
        return lines * before[0] if len(lines) == 1 else lines

    def _encoded(self, line: str, ctx: Context) -> Cond:
        (entry,) = encode_text(self.clip, line, ctx.device)
        return replace(entry, embeds=entry.embeds.to(ctx.device.torch, torch.float32))


def _said(shape: torch.Size) -> str:
    return f"{shape[0]} of {shape[2]} × {shape[1]}"
