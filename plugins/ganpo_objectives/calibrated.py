"""DPO with something that holds the chosen response's likelihood where it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ganpo_core import NonNegativeFloat, PairLogps, PositiveFloat
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import log_ratio


@dataclass(frozen=True)
class DPOPositive(Pairwise):
    """DPO-Positive: a chosen response that becomes less likely than under the reference costs margin.

        margin = beta * (rho - lam max(0, -z_chosen))

    Source: arXiv 2402.13228, where it is called DPOP (as is another loss, arXiv 2606.12505).
    TRL: none.
    When: the two responses differ in a few tokens, and DPO lowers the likelihood of both.
    """

    known_as: ClassVar = {"dpop": "arXiv 2402.13228"}

    beta: PositiveFloat = 0.3
    """Reward per nat of log-ratio."""
    lam: NonNegativeFloat = 50.0
    """Price of a lost nat; published runs use 5 to 500. 0 is DPO."""

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        assert reference is not None
        lost = F.relu(-log_ratio(policy.chosen, reference.chosen))
        return self.beta * (rho - self.lam * lost)


@dataclass(frozen=True)
class CalDPO(Pairwise):
    """Calibrated DPO: rewards are drawn to the scale that the data mean.

        loss = softplus(-rho) + c ((z_chosen - 1 / (2 beta))^2 + (z_rejected + 1 / (2 beta))^2)

    Source: arXiv 2412.14516.
    TRL: none.
    When: the likelihood of the chosen response falls under DPO although its margin grows.
    """

    beta: PositiveFloat = 1e-3
    """Sets the targets of the log-ratios; the logistic term has none."""
    calibration: NonNegativeFloat = 0.5
    """c."""

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return rho

    def finish(self, per_pair: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        assert reference is not None
        target = 1 / (2 * self.beta)
        chosen = log_ratio(policy.chosen, reference.chosen) - target
        rejected = log_ratio(policy.rejected, reference.rejected) + target
        return per_pair + self.calibration * (chosen.square() + rejected.square())
