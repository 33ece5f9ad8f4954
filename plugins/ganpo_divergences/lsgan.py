"""The least-squares loss, whose best critic shows a triangular discrimination."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores


@dataclass(frozen=True)
class LSGAN(Divergence):
    """Least squares: the critic regresses 1 on the reference and 0 on the policy; the policy asks to be taken for 1.

        critic_loss  E (s_high - 1)^2 / 2 + E s_low^2 / 2
        policy_loss  non_saturating E (s_policy - 1)^2 / 2
        estimate     2 - 8 critic_loss, for the best critic the integral of (p - q)^2 / (p + q), in [0, 2]

    A cross term drags the policy's scores to 1/2. The minimax form would push them to 0 from either side.
    Source: arXiv 1611.04076, with the labels 0 and 1; the discrimination is Vincze's and Le Cam's.
    """

    forms = ("non_saturating",)

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 2.0)

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return (high.average((high.values - 1).square()) + low.average(low.values.square())) / 2

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        return policy.average((policy.values - 1).square()) / 2

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return 2 - 8 * self.critic_loss(anchor, policy)
