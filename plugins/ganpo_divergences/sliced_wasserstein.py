"""The Wasserstein distance along random directions.

Shape suffixes: M feature vectors, Q remembered ones, F their width, K directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ganpo_core import PositiveInt
from ganpo_divergences.samples import SampleDistance, Samples


@dataclass(frozen=True)
class SlicedWasserstein(SampleDistance):
    """Sliced Wasserstein: the distance of the sorted projections, over random directions drawn anew each time.

        distance  mean over directions k and ranks i of |sort(<t_k, X>)_i - sort(<t_k, Y>)_i|^order

    Directions are orthonormal, as many as the width allows. Against a longer sorted list, such as a queue makes, ranks
    are interpolated. With `order: 2` it is at most `mse`, on average over directions.
    Source: arXiv 1902.00434.
    """

    num_directions: PositiveInt = 64
    """K."""
    order: Literal[1, 2] = 2
    """Of the distance along a direction, raised to that power."""

    def between(self, samples: Samples) -> Tensor:
        directions_KF = self._directions(samples.policy)
        counts = samples.counts
        policy_MK = _sorted(samples.policy @ directions_KF.T, counts[: samples.num_rows])
        reference_MK = _sorted(samples.reference @ directions_KF.T, counts)
        num_policy, num_reference = counts[: samples.num_rows].sum(), counts.sum()
        rank_M = torch.arange(samples.num_rows, dtype=counts.dtype, device=counts.device)
        counted_M = rank_M < num_policy
        # The place of each rank's middle in the longer list; the rank itself where the lists are equally long.
        place_M = (rank_M + 0.5) * (num_reference / num_policy.clamp(min=1)) - 0.5
        last = (num_reference - 1).clamp(min=0)
        place_M = torch.minimum(place_M.masked_fill(~counted_M, 0.0), last)
        below_M = place_M.floor().long()
        above_M = torch.minimum(below_M + 1, last.long())
        part_M1 = (place_M - below_M)[:, None]
        matched_MK = torch.lerp(reference_MK[below_M], reference_MK[above_M], part_M1)
        apart_MK = (policy_MK - matched_MK).abs().masked_fill(~counted_M[:, None], 0.0)
        return apart_MK.pow(self.order).sum() / (num_policy.clamp(min=1) * self.num_directions)

    def closed_form(self, shift: float) -> float | None:
        return abs(shift) ** self.order

    def _directions(self, like_MF: Tensor) -> Tensor:
        """[K, F] unit vectors, orthogonal in blocks of F; from torch's global generator, which checkpoints restore."""
        width, blocks = like_MF.shape[-1], []
        for start in range(0, self.num_directions, width):
            size = min(width, self.num_directions - start)
            drawn = torch.randn(width, size, dtype=like_MF.dtype, device=like_MF.device)
            blocks.append(torch.linalg.qr(drawn).Q.T)
        return torch.cat(blocks)


def _sorted(values_MK: Tensor, counts_M: Tensor) -> Tensor:
    """Each column in ascending order, the rows that do not count last."""
    return values_MK.masked_fill(counts_M[:, None] == 0, torch.finfo(values_MK.dtype).max).sort(dim=0).values
