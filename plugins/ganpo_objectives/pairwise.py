"""The composition that pairwise losses share: each overrides the stages in which it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganpo_core import Objective, PairLogps, PairLoss, PositiveFloat, TokenLogps
from ganpo_objectives.stages import log_ratio


@dataclass(frozen=True)
class Pairwise(Objective):
    """A cost of the margin between two responses.

        loss = weight * cost(margin) + auxiliary,   margin = beta * (score(chosen) - score(rejected)) + shift
    """

    beta: PositiveFloat = 0.1
    """Reward per nat of log-ratio: the strength of the pull towards the reference."""

    def anchor(self, reference: PairLogps) -> PairLogps:
        """Whom the policy is compared with."""
        return reference

    def weigh(self, policy: PairLogps, anchor: PairLogps | None) -> tuple[PairLogps, PairLogps | None]:
        """Stage 1: both models' log-probabilities with weights on their tokens."""
        return policy, anchor

    def link(self, z: Tensor) -> Tensor:
        """Stage 2: the score [B] of a log-ratio."""
        return z

    def normalize(self, score: Tensor, tokens: TokenLogps) -> Tensor:
        """Stage 3: the score for the length of its response."""
        return score

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        """Stage 4: what `cost` sees of rho = score(chosen) - score(rejected)."""
        return self.beta * rho

    def cost(self, margin: Tensor) -> Tensor:
        """Stage 5."""
        return F.softplus(-margin)

    def finish(self, per_pair: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        """Stage 6: sample weights and auxiliary terms."""
        return per_pair

    def reward(self, policy: TokenLogps, reference: TokenLogps | None) -> Tensor:
        """The implicit reward, for the log."""
        return self.beta * log_ratio(policy, reference)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        """What else is logged of each pair, [B] each."""
        return {}

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        given = reference if self.needs_reference else None
        own, anchor = self.weigh(policy, None if given is None else self.anchor(given))
        sides = (
            (own.chosen, None if anchor is None else anchor.chosen),
            (own.rejected, None if anchor is None else anchor.rejected),
        )
        chosen, rejected = (self.normalize(self.link(log_ratio(mine, its)), mine) for mine, its in sides)
        per_pair = self.finish(self.cost(self.margin(chosen - rejected, policy, given)), policy, given)
        with torch.no_grad():
            chosen_reward, rejected_reward = (self.reward(mine, its) for mine, its in sides)
            return PairLoss(per_pair, chosen_reward, rejected_reward, self.metrics(policy, given))
