"""Alignment via optimal transport: whole distributions of rewards are compared, so the batch is sorted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ganpo_core import BatchStatistic, Objective, PairLogps, PairLoss, PositiveFloat
from ganpo_objectives.stages import Smoothing, log_ratio, smoothed


@dataclass(frozen=True)
class AOT(Objective):
    """Alignment via optimal transport, paired: the policy's margins dominate the reference's, quantile by quantile.

        loss = softplus(-beta (sort(log pi(chosen)/pi(rejected)) - sort(the same of pi_ref)))

    Sorted over the micro-batch of all processes: the result depends on its size.

    Source: arXiv 2406.05882.
    TRL: `loss_type="aot"`.
    Departs: TRL sorts on each process alone.
    When: the distribution of rewards matters more than any single pair.
    """

    batch_statistics: ClassVar[Mapping[str, BatchStatistic]] = {"high": "micro_batch", "low": "micro_batch"}

    beta: PositiveFloat = 0.1
    """Reward per nat of log-ratio."""
    label_smoothing: Smoothing = 0.0
    """Probability that a label is wrong, below 0.5."""

    def compared(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        """What should be high and what should be low, [B] each."""
        return log_ratio(policy.chosen, policy.rejected), log_ratio(reference.chosen, reference.rejected)

    def batch_values(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        assert reference is not None
        return dict(zip(("high", "low"), self.compared(policy, reference), strict=True))

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        high, low = self.compared(policy, reference)
        all_high, all_low = _with_others(high, policy.batch.get("high")), _with_others(low, policy.batch.get("low"))
        order_high, order_low = all_high.argsort(), all_low.argsort()
        own = len(high)
        partner_of_high = order_low[order_high.argsort()[:own]]
        per_pair = smoothed(self.beta * (high - all_low[partner_of_high]), self.label_smoothing)
        if len(all_high) > own:
            # A low value of ours may belong to another process's high one, whose loss cannot reach it: its gradient
            # is added here, and nothing to the value.
            partner_of_low = order_high[order_low.argsort()[:own]]
            margin = self.beta * (all_high[partner_of_low].detach() - low)
            theirs = smoothed(margin, self.label_smoothing) * (partner_of_low >= own)
            per_pair = per_pair + theirs - theirs.detach()
        chosen = self.beta * log_ratio(policy.chosen, reference.chosen)
        rejected = self.beta * log_ratio(policy.rejected, reference.rejected)
        return PairLoss(per_pair, chosen.detach(), rejected.detach())


@dataclass(frozen=True)
class AOTUnpaired(AOT):
    """Alignment via optimal transport, unpaired: rewards of chosen responses dominate those of rejected ones.

        loss = softplus(-beta (sort(z_chosen) - sort(z_rejected)))

    Source: arXiv 2406.05882.
    TRL: `loss_type="aot_unpaired"`.
    Departs: TRL sorts on each process alone.
    When: the chosen and the rejected responses of a batch need not answer the same prompts.
    """

    known_as: ClassVar = {"aot_pair": "older TRL"}

    def compared(self, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
        return log_ratio(policy.chosen, reference.chosen), log_ratio(policy.rejected, reference.rejected)


def _with_others(own: Tensor, every: Tensor | None) -> Tensor:
    """Our values, differentiable, and the other processes' after them."""
    return own if every is None else torch.cat([own, every[len(own) :].to(own)])
