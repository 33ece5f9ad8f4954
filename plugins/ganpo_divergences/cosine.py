"""The cosine distance of paired latents, without a critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganpo_core import Divergence, Latents


@dataclass(frozen=True)
class Cosine(Divergence):
    """Cosine distance: one minus the cosine between the same token's latents in policy and reference.

        distance  mean over tokens of 1 - <h_policy, h_reference> / (|h_policy| |h_reference|), in [0, 2]

    Blind to the length of a latent. Written as |u - v|^2 / 2 of the unit vectors, which is exactly 0, with zero
    gradient, where policy and reference agree.
    """

    needs_critic = False

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 2.0)

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        dtype = torch.promote_types(policy.states.dtype, torch.float32)
        mask = policy.mask & reference.mask
        units = [
            F.normalize(latents.states.to(dtype).masked_fill(~mask[..., None], 0.0), dim=-1)
            for latents in (policy, reference)
        ]
        return (units[0] - units[1]).square().sum() / 2 / mask.sum().clamp(min=1)
