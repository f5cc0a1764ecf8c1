"""Cross-attention maps of one evaluation, with their gradients: what losses on attention are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion.patch import Attend, AttentionPatch, AttnCall, Site
from diffusion.session import Net

BRANCH = "positive"


@dataclass(slots=True, eq=False)
class Watch(AttentionPatch):
    """Keeps the maps of the positive branch's first entry while it is asked to, and never changes a result."""

    wanted: Callable[[Site], bool]
    kept: list[tuple[Site, Tensor]] | None = field(default=None)

    def at_site(self, site: Site) -> bool:
        """Cross-attention that is wanted, while somebody watches."""
        return self.kept is not None and site.cross and self.wanted(site)

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is."""
        kept = self.kept
        if kept is None or BRANCH not in call.rows or any(site.name == call.site.name for site, _ in kept):  # that of a further entry
            return next(call)
        first = call.rows[BRANCH].start
        rows = slice(first, first + call.rows.batch)

        def keep(probs: Tensor) -> Tensor:
            kept.append((call.site, probs[rows].float()))
            return probs

        return next(call.edit_probs(keep))

    @contextmanager
    def watching(self) -> Iterator[list[tuple[Site, Tensor]]]:
        """The list that fills with (site, maps [b, heads, queries, keys]) in the block."""
        kept: list[tuple[Site, Tensor]] = []
        self.kept = kept
        try:
            yield kept
        finally:
            self.kept = None


def maps_and_state(net: Net, watch: Watch, x: Tensor, sigma: float) -> tuple[list[tuple[Site, Tensor]], Tensor]:
    """The maps of the positive branch at x, and the x to differentiate them by; call it where gradients are enabled."""
    x = x.detach().clone().requires_grad_()
    with watch.watching() as kept:
        net.predict(BRANCH, x, sigma)
    return kept, x


def descended(x: Tensor, loss: Tensor, by: Tensor, rate: float, sigma: float) -> Tensor:
    """x − rate·(1 + σ²)·∂loss/∂x: gradient descent by `rate` on the VP state, which is x / √(1 + σ²), in terms of the VE state x."""
    (gradient,) = torch.autograd.grad(loss, by)
    return (x - rate * (1 + sigma**2) * gradient).detach()
