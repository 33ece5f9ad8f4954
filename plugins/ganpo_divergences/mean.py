"""The distance of the groups' means."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ganpo_divergences.samples import SampleDistance, Samples


@dataclass(frozen=True)
class Mean(SampleDistance):
    """Mean difference: the squared distance of the groups' mean vectors, a discrepancy under the linear kernel.

        distance  |E X - E Y|^2

    Sees nothing but a shift; never above `frechet`.
    """

    def between(self, samples: Samples) -> Tensor:
        difference = samples.policy_weights @ samples.policy - samples.reference_weights @ samples.reference
        return difference.square().sum()

    def closed_form(self, shift: float) -> float | None:
        return shift**2
