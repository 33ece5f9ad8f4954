"""Paired comparisons over worlds and prompts, and what remains of them once they are corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ganpo_core.statistics import bootstrap_replicates, length_controlled
from ganpo_lab.evidence import Evidence, Numbers, Setting

RESAMPLES, REFITS = 2000, 300
"""Of means; of the regression, which is fitted anew in each."""


@dataclass(frozen=True)
class Comparison:
    """A difference of two rows, its 95 % interval, and how often a resample falls on the other side of 0."""

    value: float
    low: float
    high: float
    chance: float
    """Two-sided: twice the smaller share of resamples at or beyond 0."""

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Replicates:
    """Statistics of rows, of all answers and of every resample; the same resamples for all, so that all are paired."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._known: dict[tuple[str, str, Setting, tuple[int, ...]], tuple[float, Numbers]] = {}

    def difference(
        self, first: str, second: str, measure: str, setting: Setting, second_setting: Setting | None = None
    ) -> Comparison:
        """Row minus row, in the worlds where both were measured."""
        seeds = self.evidence.seeds(first, second)
        one = self._of(first, measure, setting, seeds)
        two = self._of(second, measure, second_setting or setting, seeds)
        resampled = one[1] - two[1]
        low, high = np.quantile(resampled, [0.025, 0.975])
        side = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
        return Comparison(one[0] - two[0], float(low), float(high), min(1.0, 2 * (side + 1) / (len(resampled) + 1)))

    def _of(self, row: str, measure: str, setting: Setting, seeds: Sequence[int]) -> tuple[float, Numbers]:
        key = (row, measure, setting, tuple(seeds))
        if key not in self._known:
            values = [self.evidence.measured(row, seed, setting) for seed in seeds]
            sizes = [len(each.reward) for each in values]
            if measure == "LC":

                def statistic(index: int, counts: Numbers) -> float:
                    return controlled(self.evidence, row, seeds[index], setting, counts)

                resamples = REFITS
            else:

                def statistic(index: int, counts: Numbers) -> float:
                    return float(getattr(values[index], measure) @ counts / counts.sum())

                resamples = RESAMPLES
            whole = float(np.mean([statistic(index, np.ones(size)) for index, size in enumerate(sizes)]))
            self._known[key] = whole, bootstrap_replicates(statistic, sizes, resamples)
        return self._known[key]


def controlled(evidence: Evidence, row: str, seed: int, setting: Setting, counts: Numbers | None = None) -> float:
    """The length-controlled win rate of one world."""
    measured = evidence.measured(row, seed, setting)
    rivals = measured.length - measured.longer
    hard = evidence.difficulty(seed, setting.at)
    return length_controlled(measured.win, measured.length, rivals, hard, counts).rate


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted for the number of comparisons, in their order (Holm 1979)."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    adjusted, floor = [0.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = floor
    return adjusted
