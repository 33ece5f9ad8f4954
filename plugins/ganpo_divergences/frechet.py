"""The Frechet distance: Wasserstein-2 between Gaussians.

Shape suffixes: M feature vectors, Q remembered ones, F their width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ganpo_divergences.samples import SampleDistance, Samples

TINY = 1e-12
"""Added to variances: the root of 0 has no slope."""


@dataclass(frozen=True)
class Frechet(SampleDistance):
    """Frechet distance: the squared Wasserstein-2 distance between Gaussians of the groups' means and covariances.

        distance  |E X - E Y|^2 + tr(C_X + C_Y - 2 (C_X^1/2 C_Y C_X^1/2)^1/2)

    Between `mean` and the width of the latents times `mse`.
    Source: Dowson and Landau, 1982; arXiv 1706.08500 for its use on features.
    """

    covariance: Literal["diagonal", "full"] = "diagonal"
    """Variances alone, sum (sd_X - sd_Y)^2, exactly 0 at equality; or whole matrices, through the singular values of
    an M by M matrix for M vectors a side, which equality leaves at rounding error."""

    def between(self, samples: Samples) -> Tensor:
        weights_X, weights_Y = samples.policy_weights, samples.reference_weights
        mean_X, mean_Y = weights_X @ samples.policy, weights_Y @ samples.reference
        centred_X, centred_Y = samples.policy - mean_X, samples.reference - mean_Y
        apart: Tensor = (mean_X - mean_Y).square().sum()
        if self.covariance == "diagonal":
            deviation_X = (weights_X @ centred_X.square() + TINY).sqrt()
            deviation_Y = (weights_Y @ centred_Y.square() + TINY).sqrt()
            return apart + (deviation_X - deviation_Y).square().sum()
        # C = A^T A for A = sqrt(weight) * centred, and tr (C_X^1/2 C_Y C_X^1/2)^1/2 is the nuclear norm of A_X A_Y^T.
        factor_X, factor_Y = weights_X.sqrt()[:, None] * centred_X, weights_Y.sqrt()[:, None] * centred_Y
        overlap: Tensor = torch.linalg.svdvals(factor_X @ factor_Y.T).sum()
        return apart + factor_X.square().sum() + factor_Y.square().sum() - 2 * overlap

    def closed_form(self, shift: float) -> float | None:
        return shift**2
