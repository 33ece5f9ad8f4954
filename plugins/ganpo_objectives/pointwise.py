"""The composition that losses of single responses share: they take pairs, and unpaired responses with a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ganpo_core import Objective, PairLogps, PairLoss, PositiveFloat, ResponseLoss, TokenLogps
from ganpo_objectives.stages import log_ratio


@dataclass(frozen=True)
class Pointwise(Objective):
    """A cost of each response by itself: loss = desirable(r_chosen) + undesirable(r_rejected), r = beta z."""

    beta: PositiveFloat = 0.1
    """Reward per nat of log-ratio: the strength of the pull towards the reference."""

    def desirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        """What a good response costs."""
        raise NotImplementedError

    def undesirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        """What a bad response costs."""
        raise NotImplementedError

    def baseline(self, batch: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """The reward that is neither good nor bad, from the `batch_statistics`."""
        return like.new_zeros(())

    def metrics(self, baseline: Tensor, reward: Tensor) -> Mapping[str, Tensor]:
        """What is logged beside the rewards: the baseline, where there is one."""
        return {"baseline": baseline.expand(reward.shape)} if self.batch_statistics else {}

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        chosen = self.beta * log_ratio(policy.chosen, reference.chosen)
        rejected = self.beta * log_ratio(policy.rejected, reference.rejected)
        baseline = self.baseline(policy.batch, chosen)
        per_pair = self.desirable(chosen, baseline) + self.undesirable(rejected, baseline)
        return PairLoss(per_pair, chosen.detach(), rejected.detach(), self.metrics(baseline, chosen))

    def loss_unpaired(self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor) -> ResponseLoss:
        assert reference is not None
        reward = self.beta * log_ratio(policy, reference)
        baseline = self.baseline(policy.batch, reward)
        per_response = torch.where(desirable, self.desirable(reward, baseline), self.undesirable(reward, baseline))
        return ResponseLoss(per_response, reward.detach(), self.metrics(baseline, reward))
