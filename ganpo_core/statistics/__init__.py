"""Win rates, intervals, correlations and length control: each computed here and nowhere else."""

from ganpo_core.statistics.alpaca import GamedRows, alpaca_length_controlled
from ganpo_core.statistics.correlation import Correlation, pearson, spearman
from ganpo_core.statistics.intervals import (
    Interval,
    bootstrap_over_seeds,
    bootstrap_replicates,
    paired_difference,
    wilson_interval,
)
from ganpo_core.statistics.length import LengthControlled, difficulty, length_controlled
from ganpo_core.statistics.wins import win_rate, win_shares

__all__ = [
    "Correlation",
    "GamedRows",
    "Interval",
    "LengthControlled",
    "alpaca_length_controlled",
    "bootstrap_over_seeds",
    "bootstrap_replicates",
    "difficulty",
    "length_controlled",
    "paired_difference",
    "pearson",
    "spearman",
    "wilson_interval",
    "win_rate",
    "win_shares",
]
