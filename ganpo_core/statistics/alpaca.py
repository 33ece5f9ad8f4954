"""AlpacaEval 2's length-controlled win rate: the computation of `length_controlled_v1`, with scikit-learn.

Shape suffixes: N rows, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ganpo_core.errors import GanpoError
from ganpo_core.statistics.arrays import Floats, Numbers, as_floats, of_one_length
from ganpo_core.statistics.length import LengthControlled

GAMED_WEIGHT = 0.2 / 2
"""Of each row of the gamed baselines, of which there are two."""
FOLDS, SEED = 5, 123


@dataclass(frozen=True)
class GamedRows:
    """The baseline made verbose and made concise, annotated: what the regression is held to (`df_gamed.csv`)."""

    preferences: Floats
    """Wins in [0, 1]."""
    scaled_gaps: Floats
    """Difference of lengths, the baseline's minus the other's, over its standard deviation."""
    difficulties: Floats


def alpaca_length_controlled(
    preferences: Numbers,
    lengths: Numbers,
    base_lengths: Numbers,
    difficulties: Numbers | None = None,
    gamed: GamedRows | None = None,
) -> LengthControlled:
    """The length-controlled win rate as AlpacaEval computes it from wins in [0, 1] and lengths in characters.

    With `difficulties` and `gamed` it is `length_controlled_v1`, without both `length_controlled_minimal`; features are
    (tanh(gap), difficulty, 1) or (tanh(gap), 1). Raises GanpoError where scikit-learn is not installed.
    """
    wins_N = as_floats(preferences, "preferences")
    gap_N = as_floats(base_lengths, "base_lengths") - as_floats(lengths, "lengths")
    of_one_length(preferences=wins_N, lengths=gap_N)
    spread = gap_N.std(ddof=1) if len(gap_N) > 1 else 0.0
    scaled_N = gap_N / spread if spread > 0 else np.zeros_like(gap_N)
    columns = [np.tanh(scaled_N), np.ones_like(gap_N)]
    if difficulties is not None:
        columns.insert(1, as_floats(difficulties, "difficulties"))
    features_NF = np.stack(columns, axis=1)
    train_NF, train_wins_N, weights_N = features_NF, wins_N, np.ones_like(wins_N)
    if gamed is not None:
        zeros = np.zeros_like(gamed.preferences)
        gamed_NF = np.stack([np.tanh(gamed.scaled_gaps), gamed.difficulties, zeros], axis=1)
        train_NF = np.concatenate([gamed_NF, features_NF])
        train_wins_N = np.concatenate([gamed.preferences, wins_N])
        weights_N = np.concatenate([np.full_like(gamed.preferences, GAMED_WEIGHT), weights_N])
    model = _fit(train_NF, train_wins_N, weights_N)
    features_NF = features_NF.copy()
    features_NF[:, 0] = 0.0
    predicted_N = model.predict_proba(features_NF)[:, 1]
    error = float(predicted_N.std(ddof=1) / np.sqrt(len(predicted_N))) if len(predicted_N) > 1 else 0.0
    return LengthControlled(float(predicted_N.mean()), error, tuple(map(float, model.coef_.reshape(-1))))


def _fit(features_NF: Floats, wins_N: Floats, weights_N: Floats) -> Any:
    """L1 logistic regression on soft targets: every row twice, as a win and as a loss, weighted by its share of each."""
    try:
        import sklearn
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.metrics import make_scorer
        from sklearn.model_selection import GroupKFold
    except ImportError as error:
        raise GanpoError(
            "AlpacaEval's length control needs scikit-learn; install it with `pip install 'ganpo[evaluation]'`"
        ) from error

    twice_NF, labels_N = np.concatenate([features_NF, features_NF]), np.repeat([1, 0], len(wins_N))
    shares_N, own_weights_N = np.concatenate([wins_N, 1 - wins_N]), np.concatenate([weights_N, weights_N])
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(_log_loss, response_method="predict_proba", greater_is_better=False)
        scorer = scorer.set_score_request(shares=True, own_weights=True)
        model = LogisticRegressionCV(
            cv=GroupKFold(n_splits=FOLDS), scoring=scorer, random_state=SEED, l1_ratios=(1.0,), solver="liblinear",
            fit_intercept=False, use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        groups = np.concatenate([np.arange(len(wins_N))] * 2)
        return model.fit(
            twice_NF, labels_N, sample_weight=shares_N * own_weights_N, groups=groups, shares=shares_N,
            own_weights=own_weights_N,
        )


def _log_loss(y_true: Floats, y_pred: Floats, shares: Floats, own_weights: Floats) -> float:
    """Against soft targets; each row is scored by its share of a win, as AlpacaEval does."""
    wins, predicted = np.where(y_true == 1, shares, 1 - shares), np.clip(y_pred, 1e-15, 1 - 1e-15)
    return -float(np.mean(own_weights * (wins * np.log(predicted) + (1 - wins) * np.log(1 - predicted))))
