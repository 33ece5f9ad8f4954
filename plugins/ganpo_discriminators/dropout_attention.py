"""Attention with dropout that keeps no score: for a CPU, where torch's fused kernel offers no dropout.

Shape suffixes: A attention heads, M tokens of a row, E width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def dropout_attention(query_AME: Tensor, key_AME: Tensor, value_AME: Tensor, dropout: float) -> Tensor:
    """[A, M, E]: every token over all tokens, each weight dropped with probability `dropout` and the others scaled up."""
    kept_AMM = query_AME.new_empty(*query_AME.shape[:2], key_AME.shape[1], dtype=torch.bool).bernoulli_(1 - dropout)
    found: Tensor = _DropoutAttention.apply(  # type: ignore[no-untyped-call]
        query_AME, key_AME, value_AME, kept_AMM, 1 - dropout
    )
    return found


class _DropoutAttention(torch.autograd.Function):
    """Keeps which weights were kept, a byte each; torch's own keeps the weights three times over, in float32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, kept: Tensor, share: float) -> Tensor:
        ctx.save_for_backward(query, key, value, kept)
        ctx.share = share
        return _weights(query, key).mul_(kept) @ value / share

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Nothing in place: a gradient penalty differentiates this once more.
        query, key, value, kept = ctx.saved_tensors
        gradient = gradient.to(query.dtype) / ctx.share  # under autocast it is not what was saved
        weights = _weights(query, key)
        dropped = weights * kept
        slope = gradient @ value.transpose(1, 2) * dropped
        slope = (slope - slope.sum(-1, keepdim=True) * weights) * query.shape[-1] ** -0.5
        return slope @ key, slope.transpose(1, 2) @ query, dropped.transpose(1, 2) @ gradient, None, None


def _weights(query: Tensor, key: Tensor) -> Tensor:
    scores: Tensor = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return scores.softmax(-1)
