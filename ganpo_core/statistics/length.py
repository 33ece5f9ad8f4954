"""Win rates at equal length, by a small logistic regression of our own: what the lab uses.

Shape suffixes: N prompts, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ganpo_core.errors import DataError
from ganpo_core.statistics.arrays import Floats, Numbers, as_floats, of_one_length

RIDGE = 1e-2
MOST_STEPS = 50


@dataclass(frozen=True)
class LengthControlled:
    """A win rate predicted at equal length, as shares of 1."""

    rate: float
    standard_error: float
    """Of the mean of the predictions; the regression's own uncertainty is not in it: bootstrap for that."""
    weights: tuple[float, ...]
    """Of the features, in the order of the function's documentation."""


def difficulty(wins: Sequence[Numbers]) -> Floats:
    """[N], how hard it is to win each prompt: the logit of a pool's mean win there, half a win added on either side."""
    from scipy.special import logit  # scipy is slow to import, and most commands need none

    wins_MN = np.stack([as_floats(each, "wins") for each in wins])
    return np.asarray(logit((wins_MN.sum(0) + 0.5) / (len(wins_MN) + 1)), dtype=np.float64)


def length_controlled(
    preferences: Numbers,
    lengths: Numbers,
    base_lengths: Numbers,
    difficulties: Numbers | None = None,
    counts: Numbers | None = None,
    ridge: float = RIDGE,
) -> LengthControlled:
    """The win rate that a logistic model predicts where responses are as long as the baseline's.

    `preferences` are wins in [0, 1]; features are (1, tanh(difference of lengths / its standard deviation),
    difficulty). `counts` weigh prompts, as a bootstrap does; the deviation then is the weighted one.
    """
    from scipy.special import expit

    wins_N = as_floats(preferences, "preferences")
    gap_N = as_floats(base_lengths, "base_lengths") - as_floats(lengths, "lengths")
    counts_N = np.ones_like(wins_N) if counts is None else as_floats(counts, "counts")
    hard_N = np.zeros_like(wins_N) if difficulties is None else as_floats(difficulties, "difficulties")
    of_one_length(preferences=wins_N, lengths=gap_N, difficulties=hard_N, counts=counts_N)
    if wins_N.min() < 0 or wins_N.max() > 1:
        raise DataError(f"preferences are wins in [0, 1], got {wins_N.min()} to {wins_N.max()}")
    total = counts_N.sum()
    spread = float(np.sqrt(counts_N @ (gap_N - counts_N @ gap_N / total) ** 2 / total))
    scaled_N = np.tanh(gap_N / spread) if spread > 0 else np.zeros_like(gap_N)
    features_NF = np.stack([np.ones_like(gap_N), scaled_N, hard_N], axis=1)
    weights_F = _fit(features_NF, wins_N, counts_N, ridge)
    features_NF[:, 1] = 0.0
    predicted_N = expit(features_NF @ weights_F)
    rate = float(counts_N @ predicted_N / total)
    deviation = np.sqrt(counts_N @ (predicted_N - rate) ** 2 / max(total - 1, 1))
    return LengthControlled(rate, float(deviation / np.sqrt(total)), tuple(map(float, weights_F)))


def _fit(features_NF: Floats, wins_N: Floats, counts_N: Floats, ridge: float) -> Floats:
    """Newton's method on the weighted log loss + ridge / 2 * |weights|^2: convex, and quick enough to bootstrap."""
    from scipy.special import expit

    penalty_FF = ridge * np.eye(features_NF.shape[1])
    weights_F = np.zeros(features_NF.shape[1])

    def loss(weights_F: Floats) -> float:
        logits_N = features_NF @ weights_F
        each_N = np.logaddexp(0, logits_N) - wins_N * logits_N
        return float(counts_N @ each_N + ridge / 2 * weights_F @ weights_F)

    for _ in range(MOST_STEPS):
        predicted_N = expit(features_NF @ weights_F)
        slope_F = features_NF.T @ (counts_N * (predicted_N - wins_N)) + ridge * weights_F
        curvature_FF = (features_NF.T * (counts_N * predicted_N * (1 - predicted_N))) @ features_NF + penalty_FF
        step_F, scale, before = np.linalg.solve(curvature_FF, slope_F), 1.0, loss(weights_F)
        while loss(weights_F - scale * step_F) > before and scale > 1e-6:  # a full step can overshoot
            scale /= 2
        weights_F = weights_F - scale * step_F
        if np.abs(scale * step_F).max() < 1e-9:
            break
    return np.asarray(weights_F, dtype=np.float64)
