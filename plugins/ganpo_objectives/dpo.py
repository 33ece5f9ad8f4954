"""DPO, and cDPO as its option."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F

from ganpo_core import NonNegativeFloat, Objective, PairLogps, PairLoss, PositiveFloat


@dataclass(frozen=True)
class DPO(Objective):
    """Direct preference optimization: a logistic loss on the difference of implicit rewards.

        margin = beta * (log pi/pi_ref(chosen) - log pi/pi_ref(rejected))
        loss   = (1 - e) softplus(-margin) + e softplus(margin),   e = label_smoothing

    Source: arXiv 2305.18290; with e > 0 it is cDPO (Mitchell, "A note on DPO with noisy preferences", 2023).
    TRL: `loss_type="sigmoid"`, which ignores label_smoothing.
    """

    beta: PositiveFloat = 0.1
    """Reward per nat of log-ratio: the strength of the pull towards the reference."""
    label_smoothing: NonNegativeFloat = 0.0
    """Probability that a label is wrong, below 0.5. The loss is then least at margin log((1 - e) / e), not at infinity."""

    def __post_init__(self) -> None:
        if self.label_smoothing >= 0.5:
            raise ValueError(
                f"label_smoothing must be below 0.5, got {self.label_smoothing:g}: labels would mean nothing"
            )

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        chosen = self.beta * (policy.chosen.total - reference.chosen.total)
        rejected = self.beta * (policy.rejected.total - reference.rejected.total)
        margin = chosen - rejected
        right, wrong = F.softplus(-margin), F.softplus(margin)
        per_pair = (1 - self.label_smoothing) * right + self.label_smoothing * wrong
        return PairLoss(per_pair, chosen.detach(), rejected.detach())
