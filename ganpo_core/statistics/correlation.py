"""Correlations of two judges' scores, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganpo_core.errors import DataError
from ganpo_core.statistics.arrays import Floats, Numbers, as_floats, of_one_length
from ganpo_core.statistics.intervals import RESAMPLES, Interval


@dataclass(frozen=True)
class Correlation:
    """A coefficient with its interval, and on how many points it rests."""

    name: str
    interval: Interval
    count: int


def pearson(x: Numbers, y: Numbers, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0) -> Correlation:
    """Pearson's r; the interval redraws points."""
    from scipy import stats  # scipy is slow to import, and most commands need none

    def of_values(a: Floats, b: Floats, axis: int) -> Any:
        return stats.pearsonr(a, b, axis=axis).statistic

    return _correlation("pearson", of_values, x, y, resamples, confidence, seed)


def spearman(x: Numbers, y: Numbers, resamples: int = RESAMPLES, confidence: float = 0.95, seed: int = 0) -> Correlation:
    """Spearman's rank correlation, average ranks for ties; the interval redraws points."""
    from scipy import stats

    def of_ranks(a: Floats, b: Floats, axis: int) -> Any:
        return stats.pearsonr(stats.rankdata(a, axis=axis), stats.rankdata(b, axis=axis), axis=axis).statistic

    return _correlation("spearman", of_ranks, x, y, resamples, confidence, seed)


def _correlation(
    name: str, statistic: Callable[..., Any], x: Numbers, y: Numbers, resamples: int, confidence: float, seed: int
) -> Correlation:
    from scipy import stats

    x_N, y_N = as_floats(x, "x"), as_floats(y, "y")
    count = of_one_length(x=x_N, y=y_N)
    for label, values in (("x", x_N), ("y", y_N)):
        if count < 3 or np.ptp(values) == 0:
            raise DataError(f"{name} correlation: {label} needs three values that are not all equal, got {count} values")
    found = stats.bootstrap(
        (x_N, y_N), statistic, paired=True, vectorized=True, n_resamples=resamples, confidence_level=confidence,
        method="percentile", rng=np.random.default_rng(seed), batch=256,
    )
    low, high = found.confidence_interval
    return Correlation(name, Interval(float(statistic(x_N, y_N, axis=-1)), float(low), float(high)), count)
