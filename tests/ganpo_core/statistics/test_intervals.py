"""Wins, intervals and correlations against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ganpo_core.errors import DataError
from ganpo_core.statistics import (
    bootstrap_over_seeds,
    bootstrap_replicates,
    paired_difference,
    pearson,
    spearman,
    wilson_interval,
    win_rate,
    win_shares,
)


def test_a_tie_is_half_a_win() -> None:
    assert win_shares([1, 2, 3, 0], [0, 2, 4, 0]).tolist() == [1, 0.5, 0, 0.5]
    assert win_rate([1, 2, 3, 0], [0, 2, 4, 0]) == 0.5


def test_wilson_is_scipys_where_scipy_has_it() -> None:
    for wins, count in ((7, 10), (0, 12), (805, 805), (201, 500)):
        theirs = stats.binomtest(wins, count).proportion_ci(0.9, method="wilson")
        ours = wilson_interval([1] * wins + [0] * (count - wins), 0.9)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_half_wins_move_the_wilson_interval_as_half_successes() -> None:
    assert wilson_interval([0.5] * 10) == wilson_interval([1, 0] * 5)


def test_one_seed_has_the_interval_of_a_mean() -> None:
    """Normal theory: mean +- 1.96 sd / sqrt(n)."""
    values = np.random.default_rng(0).normal(0.3, 1, 400)
    found = paired_difference([values], [np.zeros(400)])
    half = 1.96 * values.std() / 20
    assert found.estimate == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert found.excludes_zero


def test_seeds_that_differ_widen_the_interval() -> None:
    """Between seeds the deviation is 1 and within 0: the interval is that of three values redrawn, not of 300."""
    mine = [[float(seed)] * 100 for seed in (-1, 0, 1)]
    found = paired_difference(mine, [[0.0] * 100] * 3, resamples=4000)
    # Means of three draws from {-1, 0, 1}: -1 with probability 1/27 > 2.5 %, so the quantile is the extreme.
    assert (found.low, found.estimate, found.high) == (-1, 0, 1)
    assert not found.excludes_zero


def test_pairing_narrows_the_interval() -> None:
    draw = np.random.default_rng(1)
    shared, noise = draw.normal(0, 5, 300), draw.normal(0.2, 0.1, 300)
    found = paired_difference([shared + noise], [shared])
    assert found.high - found.low < 0.03


def test_replicates_of_two_statistics_are_paired() -> None:
    values = np.random.default_rng(2).normal(size=50)
    one = bootstrap_replicates(lambda seed, counts: float(values @ counts) / 50, [50], 100)
    two = bootstrap_replicates(lambda seed, counts: float((values + 1) @ counts) / 50, [50], 100)
    assert two - one == pytest.approx(np.ones(100))


def test_a_statistic_sees_every_prompt_once_for_the_estimate() -> None:
    found = bootstrap_over_seeds(lambda seed, counts: counts.sum() + seed, [4, 4], 10)
    assert found.estimate == 4.5


def test_coefficients_are_scipys_and_the_interval_holds_the_truth() -> None:
    """r of two normals that share half their variance is 0.5; Fisher: half-width about 1.96 (1 - r^2) / sqrt(n)."""
    draw = np.random.default_rng(3)
    common, x, y = draw.normal(size=(3, 600))
    x, y = common + x, common + y
    found = pearson(x, y)
    assert found.interval.estimate == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.interval.low < 0.5 < found.interval.high
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * 0.75 / math.sqrt(600), rel=0.25)
    ranks = spearman(np.round(x), y)
    assert ranks.interval.estimate == pytest.approx(stats.spearmanr(np.round(x), y).statistic)
    assert spearman(np.exp(x), y).interval.estimate == pytest.approx(spearman(x, y).interval.estimate)


def test_what_cannot_be_correlated_is_named() -> None:
    with pytest.raises(DataError, match="y needs three values that are not all equal"):
        pearson([1, 2, 3], [1, 1, 1])
    with pytest.raises(DataError, match="x: value 1 is nan"):
        pearson([1, math.nan, 3], [1, 2, 3])
