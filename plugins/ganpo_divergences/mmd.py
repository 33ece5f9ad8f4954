"""The maximum mean discrepancy under Gaussian kernels.

Shape suffixes: M feature vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ganpo_core import PositiveFloat
from ganpo_divergences.samples import SampleDistance, Samples, distances, two_sample


@dataclass(frozen=True)
class MMD(SampleDistance):
    """Maximum mean discrepancy: the squared distance of the groups' mean embeddings under Gaussian kernels.

        distance  E k(X, X') + E k(Y, Y') - 2 E k(X, Y),   k = mean over bandwidths b of exp(-|x - y|^2 / (2 b^2))

    Source: Gretton et al., A kernel two-sample test, JMLR 2012.
    """

    bandwidths: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0, 4.0)
    """Kernel widths, in multiples of `scale`."""
    scale: PositiveFloat | None = None
    """Of the latents; null takes the median distance between the reference's own vectors."""
    unbiased: bool = False
    """The U-statistic, which may be negative, rather than the V-statistic."""

    def __post_init__(self) -> None:
        if not self.bandwidths:
            raise ValueError("bandwidths names none; give at least one")

    @property
    def estimate_range(self) -> tuple[float, float]:
        return (-math.inf if self.unbiased else 0.0, math.inf)

    def between(self, samples: Samples) -> Tensor:
        scale = self._scale_of(samples)

        def kernel(first: Tensor, second: Tensor) -> Tensor:
            squares = distances(first, second).square()
            return torch.stack([(-squares / (2 * (width * scale) ** 2)).exp() for width in self.bandwidths]).mean(0)

        return two_sample(samples, kernel, self.unbiased)

    def closed_form(self, shift: float) -> float | None:
        if self.scale is None:
            return None
        squares = [(width * self.scale) ** 2 for width in self.bandwidths]
        values = [2 * math.sqrt(s / (s + 2)) * -math.expm1(-(shift**2) / (2 * (s + 2))) for s in squares]
        return sum(values) / len(values)

    def _scale_of(self, samples: Samples) -> Tensor | float:
        if self.scale is not None:
            return self.scale
        reference = samples.reference.detach()
        apart = distances(reference, reference)
        counted = (samples.counts[:, None] * samples.counts).bool() & ~torch.eye(
            len(reference), dtype=torch.bool, device=reference.device
        )
        median = apart.masked_fill(~counted, math.nan).nanmedian()
        # A single vector has no distance to another: its own length is the only scale at hand.
        fallback = reference.norm(dim=-1).max()
        usable = torch.where(median > 0, median, fallback)
        return torch.where(usable > 0, usable, torch.ones_like(usable))
