"""The hinge loss, whose best critic shows the total variation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores


@dataclass(frozen=True)
class Hinge(Divergence):
    """Total variation: the critic is paid for scores beyond 1 on the reference and beyond -1 on the policy, no further.

        critic_loss  E max(0, 1 - s_high) + E max(0, 1 + s_low)
        policy_loss  -E s_policy, in every form
        estimate     1 - critic_loss / 2, in [0, 1] for the best critic

    Its margins keep the scores, not the critic's slope, within bounds: use spectral norms. A cross term would add
    max(0, 1 - s) to max(0, 1 + s) on the policy, which is constant between the margins.
    Source: arXiv 1705.02894, 1802.05957.
    """

    allows_cross = False

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return high.average((1 - high.values).relu()) + low.average((1 + low.values).relu())

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        return -policy.average(policy.values)

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return 1 - self.critic_loss(anchor, policy) / 2

    def closed_form(self, shift: float) -> float | None:
        return math.erf(abs(shift) / (2 * math.sqrt(2)))
