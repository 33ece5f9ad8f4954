"""Three ways to keep length out of the reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ganpo_core import NonNegativeFloat, PairLogps, PositiveFloat, Probability, TokenLogps
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import per_token, reweighted


@dataclass(frozen=True)
class DPONorm(Pairwise):
    """Length-normalized DPO: rewards are log-ratios per token.

        loss = softplus(-beta (z_chosen / n_chosen - z_rejected / n_rejected))

    Source: arXiv 2411.15124 (Tulu 3).
    TRL: `loss_type="sigmoid_norm"`.
    When: chosen responses are longer, and DPO makes answers grow.
    """

    known_as: ClassVar = {"sigmoid_norm": "TRL"}

    beta: PositiveFloat = 2.0
    """Reward per nat of log-ratio per token."""

    def normalize(self, score: Tensor, tokens: TokenLogps) -> Tensor:
        return per_token(score, tokens)


@dataclass(frozen=True)
class RDPO(Pairwise):
    """Length-regularized DPO: the margin is moved by the difference of lengths.

        loss = softplus(-(beta (z_chosen - z_rejected) + alpha (n_chosen - n_rejected)))

    Source: arXiv 2403.19159.
    TRL: none.
    When: the price of a token should be explicit.
    """

    alpha: NonNegativeFloat = 0.05
    """Margin per token by which the chosen response is longer; published runs use 0.05 to 1."""

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return self.beta * rho + self.alpha * (policy.chosen.length - policy.rejected.length)


@dataclass(frozen=True)
class LDDPO(Pairwise):
    """Length-desensitized DPO: tokens beyond the shorter response's length count less, under both models.

        z = sum of log pi/pi_ref over the first min(n_chosen, n_rejected) tokens, and alpha times it over the rest

    Source: arXiv 2409.06411.
    TRL: `ld_alpha`.
    When: the longer response wins for its length, and the beginning holds what matters.
    """

    alpha: Probability = 0.5
    """Weight of the tokens beyond; 1 is DPO."""

    def weigh(self, policy: PairLogps, anchor: PairLogps | None) -> tuple[PairLogps, PairLogps | None]:
        shared = torch.minimum(policy.chosen.length, policy.rejected.length)[:, None]

        def desensitized(tokens: TokenLogps) -> TokenLogps:
            position = tokens.mask.cumsum(-1)
            return reweighted(tokens, torch.where(position <= shared, 1.0, self.alpha))

        def both(pairs: PairLogps) -> PairLogps:
            return PairLogps(desensitized(pairs.chosen), desensitized(pairs.rejected))

        return both(policy), None if anchor is None else both(anchor)
