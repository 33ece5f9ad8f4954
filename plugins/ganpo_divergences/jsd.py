"""The Jensen-Shannon divergence, of the first GAN."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores


@dataclass(frozen=True)
class JSD(Divergence):
    """Jensen-Shannon divergence: the critic classifies rows as reference or policy, each on its own.

        critic_loss  E softplus(-s_high) + E softplus(s_low)
        policy_loss  minimax -E softplus(s_policy), non_saturating E softplus(-s_policy)
        estimate     log 2 - critic_loss / 2, in [0, log 2] for the best critic

    Source: arXiv 1406.2661.
    """

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, math.log(2))

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return high.average(F.softplus(-high.values)) + low.average(F.softplus(low.values))

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        if form == "minimax":
            return -policy.average(F.softplus(policy.values))
        return policy.average(F.softplus(-policy.values))

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return math.log(2) - self.critic_loss(anchor, policy) / 2
