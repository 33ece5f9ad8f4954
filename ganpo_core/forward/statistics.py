"""Log-probabilities and quantities of whole next-token distributions, from the logits at response positions.

Shape suffixes: M response tokens, V words; C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 512
"""Tokens whose distributions are held in float32 at a time."""

TOKEN_STATISTICS: Mapping[str, Literal["policy", "reference", "both"]] = {
    "log_sum_sq_probs": "policy",
    "normalized_entropy": "reference",
    "reference_kl": "both",
}
"""What an objective may name in `token_statistics`, and whose distributions it is of. Of both, it is on the policy's.

`log_sum_sq_probs`: log sum_v pi(v)^2, without gradient. `normalized_entropy`: entropy / log V. `reference_kl`:
KL[reference || policy], with gradient.
"""


def logps_and_statistics(
    logits_MV: Tensor,
    target_M: Tensor,
    names: Collection[str],
    side: Literal["policy", "reference"],
    reference_MV: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """[M] log-probabilities in at least float32, and those of `names` that this model's pass gives, [M] each.

    `reference_MV` are the reference's logits, for statistics of both.
    """
    wide_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    logps_M = wide_MV.gather(-1, target_M[:, None]).squeeze(-1) - wide_MV.logsumexp(-1)
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        if TOKEN_STATISTICS[name] == side:
            with torch.no_grad():
                found[name] = _in_chunks(OF_ONE[name], logits_MV.detach())
        elif TOKEN_STATISTICS[name] == "both" and side == "policy" and reference_MV is not None:
            found[name] = _in_chunks(_kl_from, logits_MV, reference_MV)
    return logps_M, found


def _in_chunks(function: Callable[..., Tensor], *logits_MV: Tensor) -> Tensor:
    parts = []
    for chunk_CV in zip(*(torch.split(tensor, CHUNK) for tensor in logits_MV), strict=True):
        if torch.is_grad_enabled() and chunk_CV[0].requires_grad:
            # Recomputed in the backward pass: the float32 distributions of all chunks are never held together.
            parts.append(checkpoint(function, *chunk_CV, use_reentrant=False))
        else:
            parts.append(function(*chunk_CV))
    return torch.cat(parts)


def _log_probs(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _log_sum_squares(logits_CV: Tensor) -> Tensor:
    return (2 * _log_probs(logits_CV)).logsumexp(-1)


def _normalized_entropy(logits_CV: Tensor) -> Tensor:
    log_probs = _log_probs(logits_CV)
    entropy = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(-1)
    return entropy / torch.log(torch.tensor(float(logits_CV.shape[-1])))


def _kl_from(policy_CV: Tensor, reference_CV: Tensor) -> Tensor:
    policy, reference = _log_probs(policy_CV), _log_probs(reference_CV)
    # A word masked out of the vocabulary has log-probability -inf under both: 0 * inf is 0 here.
    return (reference.exp() * (reference.clamp(min=-1e4) - policy.clamp(min=-1e4))).sum(-1)


OF_ONE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log_sum_sq_probs": _log_sum_squares,
    "normalized_entropy": _normalized_entropy,
}
"""Those of a single model's distributions [C, V], also of logits without their row's constant."""
