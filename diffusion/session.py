"""A session: weights on the device, patches in effect, and a network to call; all of it undone on exit, however the run ended."""

from __future__ import annotations

import math
import operator
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffusion import batch
from diffusion.attention import Hub
from diffusion.channels import Origin, further
from diffusion.control.patch import spread
from diffusion.family import Family, family
from diffusion.features import tapped, total
from diffusion.guidance import Guidance
from diffusion.memory import TorchDevice
from diffusion.patch import (
    AttentionPatch,
    Block,
    Combine,
    DenoiseAt,
    FeaturePatch,
    GuidancePatch,
    GuideCall,
    ModulePatch,
    Moment,
    NetCall,
    Patch,
    Rows,
    Run,
    Site,
    StepPatch,
)
from diffusion.schedule import Step
from diffusion.values import Conditioning, Model, WeightsRef
from diffusion.weights import opened

TEXTS = 4  # that a session keeps at hand


@contextmanager
def open_session(
    model: Model,
    guidance: Guidance,
    device: TorchDevice,
    *,
    sigmas: Sequence[float] = (),
    samples: tuple[str, ...] = (),
    shape: Sequence[int] | None = None,
    origin: Origin | None = None,
) -> Iterator[Net]:
    """Open a model for evaluation. One session at a time may have the same weights open.

    `sigmas`: the levels to be visited, for patches that plan ahead; `samples`: names of the batch's rows, for patches; `shape`:
    [b, c, h, w] of what will be evaluated, to make room for it beforehand; `origin`: what inpainting networks see when not told otherwise.
    """
    which = family(model.weights.family)
    with ExitStack() as stack:
        unet = stack.enter_context(opened(model.weights, model.patches, device.weights))
        net = Net(model, guidance, device, which, unet, stack, tuple(sigmas), samples, origin)
        if shape is not None:
            entries = sum(len(conditioning) for conditioning in net.branches.values())
            device.reserve(which.working_bytes(unet, entries * shape[0], shape[2], shape[3]))
        try:
            yield net
        finally:
            net.closed = True


class Net:
    """The network of an open session. States are float32, in the family's scale; `x` is VE form (x0 + σ·noise) unless said otherwise."""

    def __init__(
        self,
        model: Model,
        guidance: Guidance,
        device: TorchDevice,
        which: Family,
        unet: nn.Module,
        stack: ExitStack,
        sigmas: tuple[float, ...],
        samples: tuple[str, ...],
        origin: Origin | None = None,
    ) -> None:
        self.model, self.guidance, self.samples = model, guidance, samples
        self.device, self.dtype = device.torch, next(unet.parameters()).dtype
        self.table, self.latent = model.process.table(), which.latent
        self.step: Step | None = None  # the step that `before` opened
        self.closed = False
        self.evaluations = 0  # of the network so far, one for each entry of a branch
        self._family, self._unet, self._stack, self._origin = which, unet, stack, origin
        self._further = which.inputs(unet) - which.latent.channels  # input channels beside the latent's
        self._sites, self._blocks = which.sites(unet), which.blocks(unet)
        self._home, self._beside = device, dict[WeightsRef, nn.Module]()  # where side networks live, and those that are open
        self._tapped: set[str] = set()
        self._states: list[tuple[Patch, Any]] = []
        self._resolved: dict[tuple[int, int], list[batch.Part]] = {}  # the parts of all branches by the size of the picture
        self._contexts: deque[tuple[list[Tensor], tuple[int, ...], Tensor]] = deque(maxlen=TEXTS)
        self._idle: set[str] = set()  # branches already warned about
        self._rows, self._moment = Rows((), 0), Moment(-1, 0, 0.0, 0)
        self._active: tuple[Any, ...] = ()
        self._sizes: Mapping[int, tuple[int, int]] = {}
        self._whole = True  # what is evaluated is not a part of the picture only
        for patch in model.patches:  # before any block is tapped
            if isinstance(patch, ModulePatch):
                stack.enter_context(patch.installed(which.plain(unet)))
        for site, module in self._sites:
            stack.callback(setattr, module, "processor", module.processor)
            module.processor = Hub(partial(self._at_site, site))  # type: ignore[assignment]
        self._run = Run(self, self.device, self.dtype, tuple(s for s, _ in self._sites), tuple(b for b, _ in self._blocks), sigmas)
        self._patches = tuple(self._begin(patch) for patch in model.patches)
        self.branches, self._wanted = self._plan()

    # -- what steppers call --

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """The guided denoised estimate D of x [b, c, h, w] at noise level sigma."""
        return self._denoise(x, sigma, self._wanted)[0]

    def denoise_all(self, x: Tensor, sigma: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The guided D of x, and the estimates of all branches from which it was combined, by name.

        Also of branches that the guidance could do without. Step patches have their say in the guided estimate only.
        """
        return self._denoise(x, sigma, tuple(self.branches))

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The state that a step starts from, after the patches' edits, outermost first."""
        self.step = step
        for patch in reversed(self._of(StepPatch)):
            x = patch.before(x, step)
        return x

    def after(self, x: Tensor, x0: Tensor, step: Step) -> Tensor:
        """The state that a step ends with, after the patches' edits, innermost first; x0 is the step's denoised estimate."""
        for patch in self._of(StepPatch):
            x = patch.after(x, x0, step)
        return x

    # -- what techniques call --

    def eps(self, x: Tensor, sigma: float) -> Tensor:
        """The guided noise estimate ε of a VP state x = √ᾱ·x0 + √(1−ᾱ)·ε, asked at noise level sigma = √((1−ᾱ)/ᾱ).

        In an inversion step the network is asked at the noisier end (`step.sigma_net`), though x is of the cleaner one.
        """
        x_ve = x * math.sqrt(1 + sigma**2)
        return (x_ve - self.denoise(x_ve, sigma)) / sigma

    def predict(self, which: str | Conditioning, x: Tensor, sigma: float, branch: str = "extra") -> Tensor:
        """The unguided denoised estimate D of x for one branch or for any conditioning, whose rows patches know by the name `branch`."""
        self._check(x)
        name, conditioning = (which, self.branches[which]) if isinstance(which, str) else (branch, which)
        return self._evaluate({name: conditioning}, x, self._at(sigma))[name]

    def state(self, patch: Patch) -> Any:
        """What `patch.begin` returned for this session; KeyError for a patch that has not begun here."""
        for description, state in self._states:
            if description is patch:
                return state
        raise KeyError(f"{type(patch).__name__} is not at work in this session")

    def weights(self, ref: WeightsRef) -> nn.Module:
        """A side network on the session's device, for as long as the session is open; several patches may share it."""
        if ref not in self._beside:
            self._beside[ref] = self._stack.enter_context(self._home.weights(ref))
        return self._beside[ref]

    @property
    def unet(self) -> nn.Module:
        """The denoiser with weight patches applied, for side networks that are differences from it; not to be changed."""
        return self._unet

    # -- inside --

    def _denoise(self, x: Tensor, sigma: float, names: Sequence[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        self._check(x)
        preds: dict[str, Tensor] = {}

        def core(x: Tensor, moment: Moment) -> Tensor:
            preds.update(self._evaluate({name: self.branches[name] for name in names}, x, moment))
            call = GuideCall(x, moment, dict(preds), lambda c, x: self._evaluate({"extra": c}, x, moment)["extra"])
            return self._combine(call)

        run: DenoiseAt = core
        for patch in self._of(StepPatch):
            run = partial(patch.denoise, next=run)
        return run(x, self._at(sigma)), preds

    def _check(self, x: Tensor) -> None:
        if self.closed:
            raise RuntimeError("the session is closed; its network cannot be called any more")
        if x.ndim != 4:
            raise ValueError(f"x: shape [b, c, h, w] is wanted, {tuple(x.shape)} given")

    def _at(self, sigma: float) -> Moment:
        index, count = (-1, 0) if self.step is None else (self.step.index, self.step.count)
        return Moment(index, count, sigma, self.table.t(sigma))

    def _begin(self, patch: Patch) -> Any:
        for description, state in self._states:
            if description is patch:
                return state
        state = patch.begin(self._run)
        self._states.append((patch, state))
        if isinstance(state, FeaturePatch):
            for block, module in self._blocks:
                if block.name not in self._tapped and state.at_block(block):
                    self._stack.enter_context(tapped(module, block, self._at_block))
                    self._tapped.add(block.name)
        return state

    def _of(self, seam: type[Any]) -> list[Any]:
        return [patch for patch in self._patches if isinstance(patch, seam)]

    def _plan(self) -> tuple[Mapping[str, Conditioning], tuple[str, ...]]:
        branches = spread(self.guidance.branches())
        patches = self._of(GuidancePatch)
        for patch in patches:
            branches = patch.branches(branches)
        spare = self.guidance.optional().difference(*(patch.needs() for patch in patches))
        return branches, tuple(name for name in branches if name not in spare)

    def _combine(self, call: GuideCall) -> Tensor:
        run: Combine = self.guidance.combine
        for patch in self._of(GuidancePatch):
            run = partial(patch.combine, next=run)
        return run(call)

    def _evaluate(self, branches: Mapping[str, Conditioning], x: Tensor, moment: Moment) -> dict[str, Tensor]:
        x = x.to(self.device, torch.float32)
        active = [part for part in self._parts(branches, x.shape[2], x.shape[3]) if part.active(moment.sigma)]
        done: dict[int, Tensor] = {}
        for members in batch.group(active, mix_lengths=not self._of(AttentionPatch)):
            done.update(zip(map(id, members), self._network(members, x, moment), strict=True))
        preds = {}
        for name in branches:
            parts = [part for part in active if part.branch == name]
            if not parts and name not in self._idle:
                self._idle.add(name)
                warnings.warn(
                    f"no conditioning of {name!r} is active at noise level {moment.sigma:.4g}; its prediction is zero there", stacklevel=2
                )
            preds[name] = batch.average(parts, [done[id(part)] for part in parts], x)
        return preds

    def _parts(self, branches: Mapping[str, Conditioning], height: int, width: int) -> list[batch.Part]:
        if any(self.branches.get(name) is not conditioning for name, conditioning in branches.items()):
            return batch.resolve(branches, self.table, height, width)
        if (height, width) not in self._resolved:  # all branches, since an area of one that is not wanted now counts in the others, too
            self._resolved[height, width] = batch.resolve(self.branches, self.table, height, width)
        return [part for part in self._resolved[height, width] if part.branch in branches]

    def _network(self, parts: Sequence[batch.Part], x: Tensor, moment: Moment) -> tuple[Tensor, ...]:
        """D of each part on its crop of x, from one evaluation of the network."""
        b, process = x.shape[0], self.model.process
        self.evaluations += len(parts)
        crops = torch.cat([part.crop(x) for part in parts])
        scaled = process.scale_input(crops, moment.sigma)
        seen = [further(part.entry, x, self._further, self.latent.scale, self._origin) for part in parts]
        if self._further:
            scaled = torch.cat([scaled, torch.cat([part.crop(s) for part, s in zip(parts, seen, strict=True) if s is not None])], dim=1)
        scaled = scaled.to(self.dtype)
        context = self._context(parts, b, moment.index)
        aside = batch.control_contexts(parts, b, moment.index, self.device)
        aside = None if aside is None else aside.to(self.dtype)
        self._rows, self._moment = self._name_rows(parts, b), moment
        self._active = (*self._patches, *(self._begin(patch) for patch in parts[0].entry.patches))
        self._sizes, self._whole = self._family.sizes(self._unet, *crops.shape[2:]), crops.shape[2:] == x.shape[2:]
        size = (x.shape[2], x.shape[3])
        told = self._family.added(self._unet, [(part.branch, part.entry) for part in parts], b, *size)
        added = {name: tensor.to(self.device) for name, tensor in told.items()}
        net_call = NetCall(scaled, context, self._rows, moment, tuple(part.box for part in parts), size, added, aside)
        residuals = total(patch.residuals(net_call) for patch in self._active if isinstance(patch, FeaturePatch))
        t = torch.full((len(scaled),), self.table.told(moment.sigma), device=self.device)
        raw = self._family.predict(self._unet, scaled, t, context, residuals, added).float()
        denoised = process.denoised(crops, moment.sigma, raw)
        return tuple(denoised[i * b : (i + 1) * b] for i in range(len(parts)))

    def _context(self, parts: Sequence[batch.Part], b: int, step: int) -> Tensor:
        """What the parts' rows read, [rows, n, d]: the same tensor for the same texts, so that attention knows them again."""
        texts = [batch.embeds(part.entry, step) for part in parts]
        state = (b, *(text._version for text in texts))  # a text that is being learned changes in place
        for known, then, context in self._contexts:
            if then == state and all(map(operator.is_, known, texts)):
                return context
        context = batch.contexts(texts, b, self.device).to(self.dtype)
        if not context.requires_grad:
            self._contexts.append((texts, state, context))
        return context

    def _name_rows(self, parts: Sequence[batch.Part], b: int) -> Rows:
        spans: list[tuple[str, int, int]] = []
        for i, part in enumerate(parts):
            if spans and spans[-1][0] == part.branch:
                spans[-1] = (part.branch, spans[-1][1], (i + 1) * b)
            else:
                spans.append((part.branch, i * b, (i + 1) * b))
        return Rows(tuple(spans), b, self.samples)

    def _at_site(self, site: Site) -> tuple[Site, Rows, Moment, list[AttentionPatch]]:
        site = replace(site, size=self._sizes[site.scale], whole=self._whole)
        return site, self._rows, self._moment, [p for p in self._active if isinstance(p, AttentionPatch) and p.at_site(site)]

    def _at_block(self, block: Block) -> tuple[Rows, Moment, list[FeaturePatch]]:
        return self._rows, self._moment, [p for p in self._active if isinstance(p, FeaturePatch) and p.at_block(block)]
