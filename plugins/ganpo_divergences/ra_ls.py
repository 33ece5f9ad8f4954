"""The relativistic average least-squares loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores


@dataclass(frozen=True)
class RaLS(Divergence):
    """Relativistic average least squares: a score is to lie 1 above, or 1 below, the mean score of the other group.

        critic_loss  E (s_high - m_low - 1)^2 + E (s_low - m_high + 1)^2,   m = the mean of a group's scores
        policy_loss  non_saturating  E (s_policy - m_anchor - 1)^2
                     full            non_saturating + E (s_anchor - m_policy + 1)^2
        estimate     2 - critic_loss, in [0, 2] for the best critic

    Source: arXiv 1807.00734.
    """

    baseline = "group_mean"
    cross_weight = 1.0
    forms = ("non_saturating", "full")

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 2.0)

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        above = high.average((high.values - low.baseline() - 1).square())
        return above + low.average((low.values - high.baseline() + 1).square())

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        loss = policy.average((policy.values - anchor.baseline() - 1).square())
        if form == "full":
            loss = loss + anchor.average((anchor.values - policy.baseline() + 1).square())
        return loss

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return 2 - self.critic_loss(anchor, policy)
