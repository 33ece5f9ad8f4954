"""Length control: four tests on both forms, and each form against an independent computation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from ganpo_core.errors import DataError
from ganpo_core.statistics import LengthControlled, alpaca_length_controlled, difficulty, length_controlled

Form = Callable[..., LengthControlled]


def of_alpaca(*arguments: Any) -> LengthControlled:
    pytest.importorskip("sklearn", reason="AlpacaEval's own form needs scikit-learn")
    return alpaca_length_controlled(*arguments)


BOTH = pytest.mark.parametrize("form", [length_controlled, of_alpaca], ids=["lab", "alpaca"])


def drawn(count: int, length_effect: float, constant: float, hard_effect: float = 0.0) -> dict[str, Any]:
    """Wins drawn from the very model that is fitted: logit = constant + length_effect * tanh(gap / sd) + hard_effect * x."""
    draw = np.random.default_rng(4)
    lengths, base = draw.normal(1200, 300, count), draw.normal(1000, 250, count)
    hard = draw.normal(0, 1, count)
    gap = base - lengths
    logits = constant + length_effect * np.tanh(gap / gap.std()) + hard_effect * hard
    wins = (draw.random(count) < expit(logits)).astype(float)
    truth = expit(constant + hard_effect * hard).mean()
    return {"wins": wins, "lengths": lengths, "base": base, "hard": hard, "truth": float(truth)}


@BOTH
def test_the_baseline_against_itself_is_at_one_half(form: Form) -> None:
    lengths = np.arange(20.0) + 100
    assert form(np.full(20, 0.5), lengths, lengths).rate == pytest.approx(0.5, abs=1e-12)


@BOTH
def test_swapping_the_sides_gives_the_complement(form: Form) -> None:
    data = drawn(400, -1.5, 0.4, 0.5)
    one = form(data["wins"], data["lengths"], data["base"], data["hard"])
    other = form(1 - data["wins"], data["base"], data["lengths"], -data["hard"])
    assert one.rate + other.rate == pytest.approx(1, abs=0.005)
    assert abs(one.rate - 0.5) > 0.05


@BOTH
def test_a_known_length_effect_is_taken_out_within_a_point(form: Form) -> None:
    data = drawn(5000, -1.5, 0.4, 0.8)
    found = form(data["wins"], data["lengths"], data["base"], data["hard"])
    assert found.rate == pytest.approx(data["truth"], abs=0.01)
    assert data["wins"].mean() > data["truth"] + 0.05


@BOTH
def test_a_preference_for_length_alone_is_no_win(form: Form) -> None:
    """The model is always the longer one, by how much varies; the longer it is, the surer it wins."""
    draw = np.random.default_rng(0)
    base = draw.normal(1000, 200, 4000)
    gap = draw.normal(-300, 300, 4000)
    wins = (draw.random(4000) < expit(-3 * np.tanh(gap / gap.std()))).astype(float)
    assert wins.mean() > 0.75
    assert form(wins, base - gap, base).rate == pytest.approx(0.5, abs=0.04)


def test_our_newton_agrees_with_scikit_learn() -> None:
    """C = 1 / ridge and rows twice, weighted by y and 1 - y, is the same convex problem."""
    linear = pytest.importorskip("sklearn.linear_model")
    data = drawn(300, -1.0, 0.3, 0.6)
    wins = 0.8 * data["wins"] + 0.1  # soft
    counts = np.random.default_rng(1).integers(0, 4, 300).astype(float)
    found = length_controlled(wins, data["lengths"], data["base"], data["hard"], counts)
    gap = data["base"] - data["lengths"]
    spread = np.sqrt(np.cov(gap, fweights=counts.astype(int), ddof=0))
    features = np.stack([np.ones(300), np.tanh(gap / spread), data["hard"]], axis=1)
    model = linear.LogisticRegression(C=100, fit_intercept=False, tol=1e-10, max_iter=1000)
    weights = np.concatenate([counts * wins, counts * (1 - wins)])
    model.fit(np.concatenate([features, features]), np.repeat([1, 0], 300), sample_weight=weights)
    assert found.weights == pytest.approx(model.coef_[0], abs=1e-4)


def test_counts_are_repeated_rows() -> None:
    data = drawn(60, -1.0, 0.3, 0.6)
    counts = np.arange(60) % 3
    weighed = length_controlled(data["wins"], data["lengths"], data["base"], data["hard"], counts)
    columns = [np.repeat(data[key], counts) for key in ("wins", "lengths", "base", "hard")]
    repeated = length_controlled(*columns)
    assert weighed.rate == pytest.approx(repeated.rate, abs=1e-9)
    assert weighed.standard_error == pytest.approx(repeated.standard_error, abs=1e-9)


def test_difficulty_is_the_logit_of_the_pools_wins() -> None:
    """Pool of two; wins 1 + 1, 0 + 0.5 -> (2.5/3, 1/3)."""
    assert difficulty([[1, 0], [1, 0.5]]) == pytest.approx([logit(2.5 / 3), logit(1 / 3)])


def test_wins_that_are_no_shares_are_refused() -> None:
    with pytest.raises(DataError, match=r"wins in \[0, 1\], got 1\.0 to 2\.0"):
        length_controlled([1, 2], [1, 1], [1, 1])


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="lists of one length are needed"):
        length_controlled([1.0], [1, 2], [1, 2])
