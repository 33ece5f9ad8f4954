"""Paired comparisons over worlds, and what remains of them once they are corrected for their number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ganpo_core.statistics import Interval, bootstrap_replicates, length_controlled
from ganpo_lab.evidence import Evidence, Numbers, Setting

RESAMPLES, REFITS = 2000, 300
"""Of means; of the regression, which is fitted anew in each."""


@dataclass(frozen=True)
class Comparison:
    """A mean over worlds, its 95 % interval, and the chance of one so far from `null` where there is no difference."""

    value: float
    low: float
    """NaN of one world, which says nothing of others."""
    high: float
    chance: float
    """Two-sided."""

    def __str__(self) -> str:
        return self.told()

    def told(self, digits: int = 3) -> str:
        """As a table has it."""
        low, high = f"{self.low:+.{digits}f}", f"{self.high:+.{digits}f}"
        return f"{self.value:+.{digits}f} [{'one world' if math.isnan(self.low) else f'{low}, {high}'}]"


def over_worlds(values: Sequence[float], null: float = 0.0) -> Comparison:
    """Student's interval and test of one value a world: prompts are noise within it, and worlds are few.

    The percentiles of a bootstrap hold the truth some 85 times in 100 where five worlds differ by more than their prompts do.
    """
    from scipy.special import stdtr, stdtrit  # scipy is slow to import, and most commands need none

    each, worlds = np.asarray(values, dtype=np.float64), len(values)
    mean = float(each.mean())
    if worlds < 2:
        return Comparison(mean, math.nan, math.nan, 1.0)
    error = float(each.std(ddof=1)) / math.sqrt(worlds)
    half = float(stdtrit(worlds - 1, 0.975)) * error
    chance = 2 * float(stdtr(worlds - 1, -abs(mean - null) / error)) if error > 0 else float(mean == null)
    return Comparison(mean, mean - half, mean + half, chance)


def sign_flips(differences: Sequence[float]) -> float:
    """The share of all changes of sign, of whole worlds, that leave a sum as far from 0: exact, and 2 / 2^K at least."""
    each = np.asarray(differences, dtype=np.float64)
    sums = np.array(list(itertools.product((1.0, -1.0), repeat=len(each)))) @ each
    return float((np.abs(sums) >= abs(each.sum()) - 1e-12).mean())


class Differences:
    """Row minus row, world by world, in the worlds where both were measured."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self._known: dict[tuple[str, int, str, Setting], float] = {}
        self._resampled: dict[tuple[str, str, Setting, tuple[int, ...]], Numbers] = {}

    def each(self, first: str, second: str, measure: str, setting: Setting) -> list[float]:
        """One difference a world."""
        seeds = self.evidence.seeds(first, second)
        return [self._of(first, seed, measure, setting) - self._of(second, seed, measure, setting) for seed in seeds]

    def of(self, first: str, second: str, measure: str, setting: Setting) -> Comparison:
        """Their mean, with Student's interval."""
        return over_worlds(self.each(first, second, measure, setting))

    def bootstrap(self, first: str, second: str, measure: str, setting: Setting) -> Interval:
        """Their mean with the percentiles of the paired bootstrap: worlds are redrawn, and prompts within them."""
        seeds = self.evidence.seeds(first, second)
        resampled = self._resamples(first, measure, setting, seeds) - self._resamples(second, measure, setting, seeds)
        low, high = np.quantile(resampled, [0.025, 0.975])
        return Interval(float(np.mean(self.each(first, second, measure, setting))), float(low), float(high))

    def _of(self, row: str, seed: int, measure: str, setting: Setting) -> float:
        key = (row, seed, measure, setting)
        if key not in self._known:
            self._known[key] = level(self.evidence, row, seed, measure, setting)
        return self._known[key]

    def _resamples(self, row: str, measure: str, setting: Setting, seeds: Sequence[int]) -> Numbers:
        """The same resamples for all rows, so that all are paired."""
        key = (row, measure, setting, tuple(seeds))
        if key not in self._resampled:

            def statistic(index: int, counts: Numbers) -> float:
                return level(self.evidence, row, seeds[index], measure, setting, counts)

            sizes = [len(self.evidence.measured(row, seed, setting).reward) for seed in seeds]
            self._resampled[key] = bootstrap_replicates(statistic, sizes, REFITS if measure == "LC" else RESAMPLES)
        return self._resampled[key]


def level(
    evidence: Evidence, row: str, seed: int, measure: str, setting: Setting, counts: Numbers | None = None
) -> float:
    """One number of one world: the mean over prompts, or the length-controlled win rate; `counts` weigh prompts."""
    measured = evidence.measured(row, seed, setting)
    if measure == "LC":
        rivals = measured.length - measured.longer
        hard = evidence.difficulty(seed, setting.at)
        return length_controlled(measured.win, measured.length, rivals, hard, counts).rate
    return float(np.average(getattr(measured, measure), weights=counts))


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted for the number of comparisons, in their order (Holm 1979)."""
    order = sorted(range(len(chances)), key=lambda index: chances[index])
    adjusted, floor = [0.0] * len(chances), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(chances) - rank) * chances[index]))
        adjusted[index] = floor
    return adjusted
