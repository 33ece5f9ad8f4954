"""The relativistic paired loss, with the two zero-centred gradient penalties that make it R3GAN."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import Divergence, GeneratorForm, Latents, NonNegativeFloat, Scores
from ganpo_divergences.slopes import mean_over_rows, squared_slopes


@dataclass(frozen=True)
class RpGAN(Divergence):
    """Relativistic pairing: a row counts by how far it scores above its own counterpart, the same text in both models.

        critic_loss  E softplus(-(s_high,i - s_low,i))
        policy_loss  minimax -E softplus(s_policy,i - s_anchor,i), non_saturating E softplus(s_anchor,i - s_policy,i)
        penalty      r1 / 2 * E slope^2 at the anchor + r2 / 2 * E slope^2 at the policy
        estimate     2 (log 2 - critic_loss), in [0, 2 log 2] for the best critic

    The slope is per dimension: latents are as far apart as the root mean square over positions and dimensions of their
    difference, so that one weight serves every width. Unlike `ragan` it stays a divergence for unrestricted critics.
    Source: arXiv 1807.00734 (pairing), 2501.05441 (R3GAN: with both penalties).
    """

    baseline = "pairwise"
    cross_weight = 1.0

    r1: NonNegativeFloat = 0.1
    """Weight of the penalty at the anchor's latents; 0 leaves it out."""
    r2: NonNegativeFloat = 0.1
    """Weight of the penalty at the policy's latents; 0 leaves it out."""

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 2 * math.log(2))

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return _paired(high, low).average(F.softplus(low.values - high.values))

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        gap = policy.values - anchor.values
        paired = _paired(policy, anchor)
        return -paired.average(F.softplus(gap)) if form == "minimax" else paired.average(F.softplus(-gap))

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return 2 * (math.log(2) - self.critic_loss(anchor, policy))

    def penalty(self, critic: nn.Module, anchor: Latents, policy: Latents) -> Tensor | None:
        terms = [
            weight / 2 * latents.states.shape[-1] * mean_over_rows(squared_slopes(critic, latents), latents.mask)
            for weight, latents in ((self.r1, anchor), (self.r2, policy))
            if weight
        ]
        return sum(terms[1:], start=terms[0]) if terms else None


def _paired(first: Scores, second: Scores) -> Scores:
    """What averages over the rows that are valid in both groups."""
    return replace(first, valid=first.valid & second.valid)
