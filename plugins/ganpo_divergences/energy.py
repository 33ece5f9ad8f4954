"""The energy distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ganpo_divergences.samples import SampleDistance, Samples, distances, two_sample


@dataclass(frozen=True)
class Energy(SampleDistance):
    """Energy distance: how much farther apart vectors of different groups are than vectors of one group.

        distance  2 E |X - Y| - E |X - X'| - E |Y - Y'|

    Source: Szekely and Rizzo, Energy statistics, 2013.
    """

    unbiased: bool = False
    """The U-statistic, which may be negative, rather than the V-statistic."""

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (-math.inf if self.unbiased else 0.0, math.inf)

    def between(self, samples: Samples) -> Tensor:
        return two_sample(samples, lambda first, second: -distances(first, second), self.unbiased)

    def closed_form(self, shift: float) -> float | None:
        between = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
        return 2 * between - 4 / math.sqrt(math.pi)
