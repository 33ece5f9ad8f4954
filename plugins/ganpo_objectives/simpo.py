"""SimPO, which needs no reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from ganpo_core import NonNegativeFloat, Objective, PairLogps, PairLoss, PositiveFloat


@dataclass(frozen=True)
class SimPO(Objective):
    """Simple preference optimization: the mean log-probability per token is the reward, with a target margin.

        margin = beta * (log pi(chosen) / n_chosen - log pi(rejected) / n_rejected)
        loss   = softplus(gamma - margin),   gamma = beta * gamma_ratio

    Source: arXiv 2405.14734. TRL: CPO's `loss_type="simpo"` with cpo_alpha=0, beta=beta and simpo_gamma=gamma.
    """

    needs_reference = False

    beta: PositiveFloat = 2.0
    """Reward per nat of mean log-probability; published runs use 2 to 10."""
    gamma_ratio: NonNegativeFloat = 0.5
    """The target margin as a part of beta, in nats per token; published runs use 0.1 to 1.6."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        chosen, rejected = self.beta * policy.chosen.mean, self.beta * policy.rejected.mean
        gamma = self.beta * self.gamma_ratio
        return PairLoss(F.softplus(gamma - (chosen - rejected)), chosen.detach(), rejected.detach())
