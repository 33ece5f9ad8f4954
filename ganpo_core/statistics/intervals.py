"""Intervals: bootstrap over seeds and prompts, and Wilson's for a share.

Shape suffixes: R resamples, N prompts, K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ganpo_core.errors import DataError
from ganpo_core.statistics.arrays import Floats, Numbers, as_floats, of_one_length

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and what it lies between."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True where the sign is settled."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_replicates(
    statistic: Callable[[int, Floats], float],
    sizes: Sequence[int],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floats:
    """[R] replicates of the mean of `statistic(seed, counts)` over seeds: first seeds are redrawn, then prompts within.

    `counts` says how often each of a seed's `sizes[seed]` prompts was drawn: a mean weighs by it, a model is fitted
    with it. The same `seed` and `sizes` draw the same counts, so replicates of two statistics are paired.
    """
    if not sizes or min(sizes) < 1:
        raise DataError(f"a bootstrap needs at least one seed with at least one prompt, got sizes {list(sizes)}")
    draw = np.random.default_rng(seed)
    replicates_R = np.empty(resamples)
    for index in range(resamples):
        drawn = draw.integers(len(sizes), size=len(sizes)) if len(sizes) > 1 else [0]
        values = [statistic(int(own), _counts(draw, sizes[own])) for own in drawn]
        replicates_R[index] = float(np.mean(values))
    return replicates_R


def bootstrap_over_seeds(
    statistic: Callable[[int, Floats], float],
    sizes: Sequence[int],
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile interval of the mean over seeds of a statistic of weighted prompts; see `bootstrap_replicates`."""
    estimate = float(np.mean([statistic(own, np.ones(size)) for own, size in enumerate(sizes)]))
    return _percentiles(estimate, bootstrap_replicates(statistic, sizes, resamples, seed), confidence)


def paired_difference(
    mine: Sequence[Numbers],
    theirs: Sequence[Numbers],
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean of mine - theirs with its bootstrap interval; one list of values a seed, value i of both on the same prompt."""
    if len(mine) != len(theirs):
        raise DataError(f"pairs need the same seeds on both sides, got {len(mine)} and {len(theirs)}")
    differences_KN = []
    for own, other in zip(mine, theirs, strict=True):
        own_N, other_N = as_floats(own, "mine"), as_floats(other, "theirs")
        of_one_length(mine=own_N, theirs=other_N)
        differences_KN.append(own_N - other_N)
    sizes = [len(each) for each in differences_KN]

    def mean(own: int, counts_N: Floats) -> float:
        return float(differences_KN[own] @ counts_N) / sizes[own]

    return bootstrap_over_seeds(mean, sizes, resamples, confidence, seed)


def wilson_interval(shares: Numbers, confidence: float = 0.95) -> Interval:
    """Wilson's interval for the mean of shares in [0, 1]; halves (ties) count as half a success."""
    shares_N = as_floats(shares, "shares")
    if shares_N.min() < 0 or shares_N.max() > 1:
        raise DataError(f"shares lie in [0, 1], got {shares_N.min()} to {shares_N.max()}")
    # scipy's binomtest has the same formula, for whole numbers of successes only.
    count, rate, z = len(shares_N), float(shares_N.mean()), NormalDist().inv_cdf(0.5 + confidence / 2)
    spread = 1 + z * z / count
    middle = (rate + z * z / (2 * count)) / spread
    half = z / spread * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))


def _counts(draw: np.random.Generator, size: int) -> Floats:
    return np.bincount(draw.integers(size, size=size), minlength=size).astype(np.float64)


def _percentiles(estimate: float, replicates_R: Floats, confidence: float) -> Interval:
    low, high = np.quantile(replicates_R, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(estimate, float(low), float(high))
