"""The two groups of latents as samples, for distances that compare groups rather than pairs.

Shape suffixes: N rows, S positions, M feature vectors, Q remembered ones, F their width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ganpo_core import Divergence, Latents, NonNegativeInt


@dataclass(frozen=True)
class Samples:
    """Feature vectors of policy and reference, row i of both being the same text; rows that do not count are 0."""

    policy: Tensor
    """[M, F], at least float32."""
    reference: Tensor
    """[M + Q, F], the remembered ones last."""
    counts: Tensor
    """[M + Q], 1 for rows that count and 0 for others; the first M are the policy's too."""

    @property
    def num_rows(self) -> int:
        """M."""
        return self.policy.shape[0]

    @property
    def policy_weights(self) -> Tensor:
        """[M], adding up to 1; all 0 where no row counts."""
        counts = self.counts[: self.num_rows]
        return counts / counts.sum().clamp(min=1)

    @property
    def reference_weights(self) -> Tensor:
        """[M + Q]."""
        return self.counts / self.counts.sum().clamp(min=1)


@dataclass(frozen=True)
class SampleDistance(Divergence):
    """A distance between groups of latents, whatever is paired with what."""

    needs_critic = False
    additive = False

    tokens: bool = False
    """Compare the latents of single tokens; by default rows are first averaged over their tokens, which leaves one
    vector a pair and says little of groups as small as a micro-batch."""
    queue: NonNegativeInt = 0
    """Past latents of the reference that stand beside the micro-batch's own. The distance is then no longer 0 where
    policy and reference agree, since the two groups differ."""

    @property
    def queue_size(self) -> int:
        return self.queue

    def remember(self, reference: Latents) -> Tensor:
        features_MF, counted_M = self._features(reference, reference.mask)
        return features_MF[counted_M][-self.queue :]

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        mask_NS = policy.mask & reference.mask
        policy_MF, counted_M = self._features(policy, mask_NS)
        reference_MF, _ = self._features(reference, mask_NS)
        counts = counted_M.to(policy_MF)
        if reference.past is not None:
            reference_MF = torch.cat([reference_MF, reference.past.to(reference_MF)])
            counts = torch.cat([counts, counts.new_ones(len(reference.past))])
        # Without a single row there is nothing to compare, whatever the queue holds.
        return self.between(Samples(policy_MF, reference_MF, counts)) * counted_M.any()

    def between(self, samples: Samples) -> Tensor:
        """Scalar, the distance of the two groups."""
        raise NotImplementedError

    def _features(self, latents: Latents, mask_NS: Tensor) -> tuple[Tensor, Tensor]:
        """[M, F] and [M] bool: what is compared, and which of it counts."""
        wide = torch.promote_types(latents.states.dtype, torch.float32)
        states_NSH = latents.states.to(wide).masked_fill(~mask_NS[..., None], 0.0)
        if self.tokens:
            return states_NSH.flatten(0, 1), mask_NS.flatten()
        return states_NSH.sum(1) / mask_NS.sum(1, keepdim=True).clamp(min=1), mask_NS.any(1)


def two_sample(samples: Samples, kernel: Callable[[Tensor, Tensor], Tensor], unbiased: bool) -> Tensor:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y) for policy X and reference Y.

    `unbiased` leaves out what a vector has with itself and with its own counterpart, which are not independent: the
    estimate of 0 is then 0 on average, and may be negative.
    """
    counts_X, counts_Y = samples.counts[: samples.num_rows], samples.counts

    def average(first: Tensor, second: Tensor, counts_1: Tensor, counts_2: Tensor) -> Tensor:
        weights = counts_1[:, None] * counts_2
        if unbiased:
            weights = weights.masked_fill(torch.eye(*weights.shape, dtype=torch.bool, device=weights.device), 0.0)
        return (weights * kernel(first, second)).sum() / weights.sum().clamp(min=1)

    within_policy = average(samples.policy, samples.policy, counts_X, counts_X)
    within_reference = average(samples.reference, samples.reference, counts_Y, counts_Y)
    return within_policy + within_reference - 2 * average(samples.policy, samples.reference, counts_X, counts_Y)


def distances(first_MF: Tensor, second_MF: Tensor) -> Tensor:
    """[M, M'], Euclidean, with gradient 0 where two vectors are equal.

    From differences: through inner products, small differences of large latents would be lost.
    """
    return torch.cdist(first_MF, second_MF, compute_mode="donot_use_mm_for_euclid_dist")
