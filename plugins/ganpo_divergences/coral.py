"""The distance of the groups' covariances.

Shape suffixes: M feature vectors, F their width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ganpo_divergences.samples import SampleDistance, Samples


@dataclass(frozen=True)
class Coral(SampleDistance):
    """Correlation alignment: the squared Frobenius distance of the groups' covariance matrices.

        distance  |Cov X - Cov Y|_F^2 / (4 F^2),   F the width of the latents

    Blind to a shift of all latents, and without gradient there. One vector a side has no covariance: use `tokens`.
    Source: arXiv 1607.01719.
    """

    sees_shift = False

    def between(self, samples: Samples) -> Tensor:
        difference_FF = covariance(samples.policy, samples.policy_weights)
        difference_FF = difference_FF - covariance(samples.reference, samples.reference_weights)
        return difference_FF.square().sum() / (4 * samples.policy.shape[-1] ** 2)

    def closed_form(self, shift: float) -> float | None:
        return 0.0


def covariance(features_MF: Tensor, weights_M: Tensor) -> Tensor:
    """[F, F], of the vectors that count."""
    centred_MF = features_MF - weights_M @ features_MF
    return centred_MF.T @ (weights_M[:, None] * centred_MF)
