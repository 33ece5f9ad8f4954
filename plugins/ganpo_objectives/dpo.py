"""DPO, and its two ways with wrong labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ganpo_core import PositiveFloat
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import Smoothing, smoothed, unbiased


@dataclass(frozen=True)
class DPO(Pairwise):
    """Direct preference optimization: a logistic loss on the difference of implicit rewards.

        margin = beta * (log pi/pi_ref(chosen) - log pi/pi_ref(rejected))
        loss   = (1 - e) softplus(-margin) + e softplus(margin),   e = label_smoothing

    Source: arXiv 2305.18290; with e > 0 it is cDPO (Mitchell, "A note on DPO with noisy preferences", 2023).
    TRL: `loss_type="sigmoid"`.
    Departs: TRL ignores label_smoothing under `sigmoid`; here it counts.
    When: the first thing to try on pairs from a model close to the reference.
    """

    known_as: ClassVar = {"sigmoid": "TRL"}

    beta: PositiveFloat = 0.1
    """Reward per nat of log-ratio: the strength of the pull towards the reference."""
    label_smoothing: Smoothing = 0.0
    """Probability that a label is wrong, below 0.5. The loss is then least at margin log((1 - e) / e), not at infinity."""

    def __post_init__(self) -> None:
        if not self.label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing must be below 0.5, got {self.label_smoothing:g}: labels would mean nothing"
            )

    def cost(self, margin: Tensor) -> Tensor:
        return smoothed(margin, self.label_smoothing)


@dataclass(frozen=True)
class CDPO(DPO):
    """Conservative DPO: DPO that expects some labels to be wrong, and so stops at a finite margin.

        loss = (1 - e) softplus(-margin) + e softplus(margin),   least at margin = log((1 - e) / e)

    Source: Mitchell, "A note on DPO with noisy preferences", 2023.
    TRL: none; `loss_type="sigmoid"` ignores label_smoothing.
    When: labels are wrong at a known rate, and rewards should stay bounded.
    """

    known_as: ClassVar = {}

    label_smoothing: Smoothing = 0.1
    """Probability e that a label is wrong, below 0.5."""


@dataclass(frozen=True)
class RobustDPO(DPO):
    """Provably robust DPO: its mean over wrong labels is the loss of the right ones.

        loss = ((1 - e) softplus(-margin) - e softplus(margin)) / (1 - 2e)

    Source: arXiv 2403.00409.
    TRL: `loss_type="robust"`.
    When: labels are wrong at a known rate, and rewards should not shrink for it.
    """

    known_as: ClassVar = {}

    label_smoothing: Smoothing = 0.1
    """Probability e that a label is wrong, below 0.5."""

    def cost(self, margin: Tensor) -> Tensor:
        return unbiased(margin, self.label_smoothing)
