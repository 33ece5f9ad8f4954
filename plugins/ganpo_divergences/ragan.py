"""The relativistic average divergence, the paper's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores


@dataclass(frozen=True)
class RaGAN(Divergence):
    """Relativistic average GAN: a score counts by how far it lies above the mean score of the other group.

        critic_loss  E softplus(-(s_high - m_low)) + E softplus(s_low - m_high),   m = the mean of a group's scores
        policy_loss  minimax         -E softplus(s_policy - m_anchor)
                     non_saturating   E softplus(-(s_policy - m_anchor))
                     full             non_saturating + E softplus(s_anchor - m_policy), with gradient through m_policy
        estimate     2 log 2 - critic_loss, in [0, 2 log 2] for the best critic

    Means a divergence only for a restricted critic: an unrestricted one reaches 2 log 2 for almost any two groups.
    Source: arXiv 2601.22083, equations 11 to 20, after arXiv 1807.00734 and 1901.02474.
    """

    baseline = "group_mean"
    cross_weight = 1.0
    forms = ("minimax", "non_saturating", "full")

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 2 * math.log(2))

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        above = high.average(F.softplus(low.baseline() - high.values))
        below = low.average(F.softplus(low.values - high.baseline()))
        return above + below

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        gap = policy.values - anchor.baseline()
        if form == "minimax":
            return -policy.average(F.softplus(gap))
        loss = policy.average(F.softplus(-gap))
        if form == "full":
            loss = loss + anchor.average(F.softplus(anchor.values - policy.baseline()))
        return loss

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return 2 * math.log(2) - self.critic_loss(anchor, policy)
