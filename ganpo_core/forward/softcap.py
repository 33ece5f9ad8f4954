"""Attention with capped scores, which torch's fused function does not offer; its scores live only inside of a call.

Shape suffixes: N rows, A heads, Q queries, K keys, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def capped_attention(
    query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, scale: float, softcap: float
) -> Tensor:
    """[N, A, Q, D]: `softmax(softcap * tanh(query key^T scale / softcap)) value` over what is `allowed` [..., Q, K]."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    with torch.autocast(device, enabled=False):
        found: Tensor = _CappedAttention.apply(query, key, value, allowed, scale, softcap)  # type: ignore[no-untyped-call]
    return found


class _CappedAttention(torch.autograd.Function):
    """The backward pass makes the scores again: kept, they would be most of the activations of a layer."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, scale: float, softcap: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, allowed)
        ctx.scale, ctx.softcap = scale, softcap
        weights, _ = _weights(query, key, allowed, scale, softcap)
        return weights.to(value.dtype) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, allowed = ctx.saved_tensors
        weights, capped = _weights(query, key, allowed, ctx.scale, ctx.softcap)
        for_value = weights.to(value.dtype).transpose(2, 3) @ gradient
        slope = (gradient @ value.transpose(2, 3)).to(weights.dtype)
        # Of the softmax, then of the cap, then of the scale.
        slope.sub_((slope * weights).sum(-1, keepdim=True)).mul_(weights)
        slope.mul_(capped.square_().neg_().add_(1)).mul_(ctx.scale)
        slope = slope.to(query.dtype)
        return slope @ key, slope.transpose(2, 3) @ query, for_value, None, None, None


def _weights(
    query: Tensor, key: Tensor, allowed: Tensor | None, scale: float, softcap: float
) -> tuple[Tensor, Tensor]:
    """[N, A, Q, K] softmax of the capped scores, and tanh(scores / softcap), both in at least float32."""
    scores = query @ key.transpose(2, 3)
    capped = scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(scale / softcap).tanh_()
    shifted = capped * softcap
    if allowed is not None:
        # The lowest number rather than -inf: a row of padding with nothing allowed stays finite.
        shifted.masked_fill_(~allowed, torch.finfo(shifted.dtype).min)
    return shifted.softmax(-1), capped
