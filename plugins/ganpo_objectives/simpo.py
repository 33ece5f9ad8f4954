"""SimPO and AlphaPO, which need no reference."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ganpo_core import NonNegativeFloat, PairLogps, PositiveFloat, TokenLogps
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import per_token, power


@dataclass(frozen=True)
class SimPO(Pairwise):
    """Simple preference optimization: the mean log-probability per token is the reward, with a target margin.

        margin = beta * (log pi(chosen) / n_chosen - log pi(rejected) / n_rejected)
        loss   = softplus(gamma - margin),   gamma = beta * gamma_ratio

    Source: arXiv 2405.14734.
    TRL: CPO's `loss_type="simpo"` with cpo_alpha=0, beta=beta and simpo_gamma=gamma.
    When: no memory or time for a reference, and answers must not grow.
    """

    needs_reference = False

    beta: PositiveFloat = 2.0
    """Reward per nat of mean log-probability; published runs use 2 to 10."""
    gamma_ratio: NonNegativeFloat = 0.5
    """The target margin as a part of beta, in nats per token; published runs use 0.1 to 1.6."""

    def normalize(self, score: Tensor, tokens: TokenLogps) -> Tensor:
        return per_token(score, tokens)

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return self.beta * (rho - self.gamma_ratio)

    def reward(self, policy: TokenLogps, reference: TokenLogps | None) -> Tensor:
        return self.beta * self.normalize(policy.total, policy)


@dataclass(frozen=True)
class AlphaPO(SimPO):
    """AlphaPO: SimPO with a reward whose shape alpha bends.

        reward = (1 - p^-alpha) / alpha,   p = exp(log pi(y) / n)

    Source: arXiv 2501.03884.
    TRL: CPO's `loss_type="simpo"` with alpha, cpo_alpha=0 and simpo_gamma = beta * gamma_ratio.
    When: SimPO lowers the likelihood of both responses too much.
    """

    beta: PositiveFloat = 2.5
    """Reward per unit of the bent mean log-probability."""
    gamma_ratio: NonNegativeFloat = 0.04
    """The target margin as a part of beta: 0.1 at the default beta."""
    alpha: float = 0.25
    """Bends the reward; 0 is SimPO."""

    def normalize(self, score: Tensor, tokens: TokenLogps) -> Tensor:
        return power(per_token(score, tokens), self.alpha)
