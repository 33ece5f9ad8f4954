"""The relativistic average hinge loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores


@dataclass(frozen=True)
class RaHinge(Divergence):
    """Relativistic average hinge: as `hinge`, with each score taken relative to the mean score of the other group.

        critic_loss  E max(0, 1 - (s_high - m_low)) + E max(0, 1 + (s_low - m_high)),   m = the mean of a group's scores
        policy_loss  non_saturating  E max(0, 1 - (s_policy - m_anchor))
                     full            non_saturating + E max(0, 1 + (s_anchor - m_policy))
        estimate     2 - critic_loss, in [0, 2] for the best critic

    The policy is left alone where it scores more than 1 above the anchor's mean.
    Source: arXiv 1807.00734.
    """

    baseline = "group_mean"
    cross_weight = 1.0
    forms = ("non_saturating", "full")

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 2.0)

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        above = high.average((1 - (high.values - low.baseline())).relu())
        return above + low.average((1 + (low.values - high.baseline())).relu())

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        loss = policy.average((1 - (policy.values - anchor.baseline())).relu())
        if form == "full":
            loss = loss + anchor.average((1 + (anchor.values - policy.baseline())).relu())
        return loss

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return 2 - self.critic_loss(anchor, policy)
