"""One processor per attention module that runs the patches' middleware around the computation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.patch import AttentionPatch, AttnCall, Moment, Rows, Site


def attend(call: AttnCall) -> Tensor:
    """softmax(q kᵀ·scale + bias) v, [rows, heads, queries, d]: fused, unless somebody edits the probabilities."""
    if not call.edits:
        bias = None if call.bias is None else call.bias.to(call.q).broadcast_to(*call.q.shape[:3], call.k.shape[2])
        return F.scaled_dot_product_attention(call.q, call.k, call.v, attn_mask=bias, scale=call.scale)
    probs = call.probs()
    for edit in reversed(call.edits):  # the innermost patch was the last to add its edit
        probs = edit(probs)
    return probs @ call.v


def run_chain(call: AttnCall, chain: Sequence[AttentionPatch]) -> Tensor:
    """The attention output with middleware around it; the last patch of the chain is the outermost."""
    if not chain:
        return attend(call)
    inner = chain[:-1]
    return chain[-1](call, lambda inner_call: run_chain(inner_call, inner))


class Hub:
    """A diffusers attention processor for one session. With no patch at its site it computes what the stock processor computes.

    `now` gives, at the time of a call, the site with its present size, the batch's row names, the moment and the patches at this site.
    A text that comes again, as it does in every step, has its keys and values projected once.
    """

    def __init__(self, now: Callable[[], tuple[Site, Rows, Moment, Sequence[AttentionPatch]]]) -> None:
        self._now = now
        self._text: tuple[Tensor, Tensor, Tensor] | None = None  # the last one, its keys and its values

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """Attention of hidden_states [rows, queries, width] to themselves or to encoder_hidden_states [rows, keys, width']."""
        if hidden_states.ndim != 3 or attn.spatial_norm is not None or attn.group_norm is not None:
            raise TypeError("attention with its own normalisation of pictures is not supported here")
        site, rows, step, chain = self._now()
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        key = value = context
        for patch in chain:
            key, value = patch.contexts(site, key, value)
        q = _heads(attn.to_q(hidden_states), attn.heads)
        if attn.norm_q is not None:
            q = attn.norm_q(q)
        k, v = self._projected(attn, key, value, is_text=key is value is encoder_hidden_states)
        bias = None
        if attention_mask is not None:
            prepared = attn.prepare_attention_mask(attention_mask, k.shape[2], k.shape[0])
            bias = prepared.view(k.shape[0], attn.heads, -1, prepared.shape[-1])
        call = AttnCall(q, k, v, site, rows, step, q.shape[-1] ** -0.5, hidden_states, context, bias)
        out = run_chain(call, chain).transpose(1, 2).flatten(2).to(q.dtype)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor

    def _projected(self, attn: Any, key: Tensor, value: Tensor, is_text: bool) -> tuple[Tensor, Tensor]:
        if is_text and self._text is not None and self._text[0] is key:
            return self._text[1:]
        k, v = _heads(attn.to_k(key), attn.heads), _heads(attn.to_v(value), attn.heads)
        if attn.norm_k is not None:
            k = attn.norm_k(k)
        learning = attn.to_k._forward_hooks or attn.to_v._forward_hooks or k.requires_grad or v.requires_grad
        if is_text and not learning:
            self._text = (key, k, v)
        return k, v


# diffusers asks for the signature in every call; worked out anew it costs as much as a small projection
Hub.__call__.__signature__ = inspect.signature(Hub.__call__)  # type: ignore[attr-defined]


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)  # (rows, heads, n, d)
