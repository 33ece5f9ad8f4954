"""The mean squared difference of paired latents, without a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ganpo_core import Divergence, Latents


@dataclass(frozen=True)
class MSE(Divergence):
    """Mean squared error: the same token under policy and reference, averaged over valid positions and dimensions.

        distance  mean over tokens and dimensions of (h_policy - h_reference)^2

    0, with zero gradient, where policy and reference agree; it bounds every Wasserstein-2 distance of the two groups.
    Source: the "fixed MSE critic" of arXiv 2601.22083, table 3, which leaves the definition to the reader.
    """

    needs_critic = False

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        dtype = torch.promote_types(policy.states.dtype, torch.float32)
        mask = policy.mask & reference.mask
        difference = policy.states.to(dtype) - reference.states.to(dtype)
        squared = difference.masked_fill(~mask[..., None], 0.0).square().mean(-1)
        return squared.sum() / mask.sum().clamp(min=1)

    def closed_form(self, shift: float) -> float | None:
        return shift**2
