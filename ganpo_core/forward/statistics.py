"""Quantities of whole next-token distributions at response positions: computed where an objective asks for them alone.

Shape suffixes: N rows, T response tokens, V words; C positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 64
"""Positions of a row whose distributions are held in float32 at a time."""

TOKEN_STATISTICS: Mapping[str, Literal["policy", "reference", "both"]] = {
    "log_sum_sq_probs": "policy",
    "normalized_entropy": "reference",
    "reference_kl": "both",
}
"""What an objective may name in `token_statistics`, and whose distributions it is of. Of both, it is on the policy's.

`log_sum_sq_probs`: log sum_v pi(v)^2, without gradient. `normalized_entropy`: entropy / log V. `reference_kl`:
KL[reference || policy], with gradient.
"""


def statistics_of(
    names: Collection[str], side: Literal["policy", "reference"], logits_NTV: Tensor, reference_NTV: Tensor | None
) -> dict[str, Tensor]:
    """[N, T] each: the statistics among `names` that this model's pass gives; `reference_NTV` where it needs both."""
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        if TOKEN_STATISTICS[name] == side:
            with torch.no_grad():
                found[name] = _in_chunks(_OF_ONE[name], logits_NTV.detach())
        elif TOKEN_STATISTICS[name] == "both" and side == "policy" and reference_NTV is not None:
            found[name] = _in_chunks(_kl_from, logits_NTV, reference_NTV)
    return found


def _in_chunks(function: Callable[..., Tensor], *logits_NTV: Tensor) -> Tensor:
    parts = []
    for chunk_NCV in zip(*(torch.split(tensor, CHUNK, dim=1) for tensor in logits_NTV), strict=True):
        if torch.is_grad_enabled() and chunk_NCV[0].requires_grad:
            # Recomputed in the backward pass: the float32 distributions of all chunks are never held together.
            parts.append(checkpoint(function, *chunk_NCV, use_reentrant=False))
        else:
            parts.append(function(*chunk_NCV))
    return torch.cat(parts, dim=1)


def _log_probs(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _log_sum_squares(logits_NCV: Tensor) -> Tensor:
    return (2 * _log_probs(logits_NCV)).logsumexp(-1)


def _normalized_entropy(logits_NCV: Tensor) -> Tensor:
    log_probs = _log_probs(logits_NCV)
    entropy = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(-1)
    return entropy / torch.log(torch.tensor(float(logits_NCV.shape[-1])))


def _kl_from(policy_NCV: Tensor, reference_NCV: Tensor) -> Tensor:
    policy, reference = _log_probs(policy_NCV), _log_probs(reference_NCV)
    # A word masked out of the vocabulary has log-probability -inf under both: 0 * inf is 0 here.
    return (reference.exp() * (reference.clamp(min=-1e4) - policy.clamp(min=-1e4))).sum(-1)


_OF_ONE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log_sum_sq_probs": _log_sum_squares,
    "normalized_entropy": _normalized_entropy,
}
