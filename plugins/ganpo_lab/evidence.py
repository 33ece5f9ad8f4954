"""Saved results become numbers a prompt: what a row's answers earned, and how often they beat the reference's.

Shape suffixes: P prompts, K answers to each, R rivals.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganpo_core import GanpoError
from ganpo_core.statistics import difficulty
from ganpo_lab.claims import read_result
from ganpo_lab.configurations import REFERENCE, Job, TablePlan
from ganpo_lab.measure import Sampling
from ganpo_lab.outcomes import Outcomes, decode
from ganpo_lab.world import Split, draw_requests

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """At which temperature a row is read."""

    at: float
    """Nominal: the rivals' temperature."""
    matched: bool = False
    """At the temperature that gives the policy the entropy of the reference at `at`; for the reference, `at` itself."""
    on_own: bool = False
    """Matched on the answers of each rather than on given sequences."""
    colder: float | None = None
    """The reference alone, sampled at this temperature instead, whatever its answers there were drawn for."""


AT_1, MATCHED, MATCHED_ON_OWN = Setting(1.0), Setting(1.0, matched=True), Setting(1.0, matched=True, on_own=True)


@dataclass(frozen=True)
class Measured:
    """One row in one world at one setting, a number a prompt: the mean over its answers."""

    temperature: float
    reward: Numbers
    valid: Numbers
    strict: Numbers
    length: Numbers
    loose: Numbers
    win: Numbers
    """Share of (answer, rival) pairs won by reward; a tie counts one half."""
    longer: Numbers
    """Tokens beyond the rivals' mean."""
    every_length: Numbers
    """[P, K], of each answer by itself."""
    every_win: Numbers
    """[P, K]."""
    every_reward: Numbers
    """[P, K]; 0 is an invalid answer."""
    every_extra: Numbers
    """[P, K], keys that were not asked for, three at most; 0 of an invalid answer."""
    every_cover: Numbers
    """[P, K], share of the keys asked for whose value is right; 0 of an invalid answer."""


class Evidence:
    """The results of one table's rows, in every world where the reference has one."""

    def __init__(self, plan: TablePlan, results: Path) -> None:
        self.plan = plan
        self._results = results
        self._found: dict[tuple[str, int], dict[str, Any] | None] = {}
        self._measured: dict[tuple[str, int, Setting], Measured] = {}
        self._difficulty: dict[tuple[int, float], Numbers] = {}

    def seeds(self, *rows: str) -> list[int]:
        """Worlds in which all of these rows, and the reference, were measured."""
        found = []
        for seed in self.plan.protocol.seeds:
            if all(self.result(row, seed) is not None for row in (REFERENCE, *rows)):
                found.append(seed)
        return found

    def result(self, row: str, seed: int) -> dict[str, Any] | None:
        """As it was saved; None where it was not, or is of another configuration than the file's."""
        key = (row, seed)
        if key not in self._found:
            configuration = next(known for known in self.plan.rows if known.name == row)
            job = Job(configuration, seed, self.plan.protocol.split)
            found = read_result(self._results / job.file)
            asked_for = {"run": configuration.plain_run}
            if self.plan.protocol.match_on_own and configuration.run is not None:
                asked_for["match_on_own"] = True
            stale = found is not None and any(found.get(key) != value for key, value in asked_for.items())
            self._found[key] = None if stale else found
        return self._found[key]

    def measured(self, row: str, seed: int, setting: Setting) -> Measured:
        """One row in one world."""
        key = (row, seed, setting)
        if key not in self._measured:
            self._measured[key] = self._measure(row, seed, setting)
        return self._measured[key]

    def difficulty(self, seed: int, at: float) -> Numbers:
        """[P], log-odds of a win of answers of the reference that stand in no other comparison, against the rivals."""
        key = (seed, at)
        if key not in self._difficulty:
            rivals, pool = (_rewards(self._samples(REFERENCE, seed, kind, Setting(at))) for kind in ("rival", "pool"))
            self._difficulty[key] = difficulty(list(_wins(pool, rivals).T))
        return self._difficulty[key]

    def _measure(self, row: str, seed: int, setting: Setting) -> Measured:
        own = self._samples(row, seed, "own", setting)
        rivals = self._samples(REFERENCE, seed, "rival", Setting(setting.at))
        outcomes = [decode(sampling.earned, sampling.length) for sampling in own]
        length = _mean(outcomes, "length")
        others = [decode(sampling.earned, sampling.length) for sampling in rivals]
        rewards_PK = _rewards(own)
        wins_PK = _wins(rewards_PK, _rewards(rivals))
        extra_PK, cover_PK = keys_told(rewards_PK, asked(seed, self.plan.protocol.split, len(length)))
        return Measured(
            temperature=own[0].temperature,
            reward=_mean(outcomes, "reward"),
            valid=_mean(outcomes, "valid"),
            strict=_mean(outcomes, "strict"),
            loose=_mean(outcomes, "loose"),
            length=length,
            win=wins_PK.mean(1),
            longer=length - _mean(others, "length"),
            every_length=np.stack([each.length for each in outcomes], axis=1),
            every_win=wins_PK,
            every_reward=rewards_PK,
            every_extra=extra_PK,
            every_cover=cover_PK,
        )

    def _samples(self, row: str, seed: int, kind: str, setting: Setting) -> list[Sampling]:
        result = self.result(row, seed)
        if result is None:
            raise GanpoError(f"lab claims: no result of row '{row}' for seed {seed}; `ganpo lab claims --only {row}` makes it")
        # The reference is its own match.
        matched, on_own = setting.matched and row != REFERENCE, setting.on_own and row != REFERENCE
        exact = setting.at if setting.colder is None else setting.colder
        return [
            sampling
            for sampling in map(Sampling.of_json, result["samples"])
            if (sampling.kind, sampling.matched, sampling.on_own) == (kind, matched, on_own)
            and (sampling.at == setting.at if setting.colder is None else not matched)
            and (matched or sampling.temperature == exact)
        ]


def asked(seed: int, split: Split, num_prompts: int) -> Numbers:
    """[P], how many keys each prompt of a world asks for; `measure.World` draws the same prompts."""
    requests = draw_requests(split, num_prompts, random.Random(f"{seed}-evaluation"))
    return np.array([float(len(request.keys)) for request in requests])


def keys_told(rewards_PK: Numbers, asked_P: Numbers) -> tuple[Numbers, Numbers]:
    """What a reward is made of, given how many keys were asked for: (keys too many, share of right values), [P, K] each.

    Three keys too many cost 0.5, less than one right value of three earns, so that no reward has two readings.
    """
    told = rewards_PK > 0
    asked_P1 = asked_P[:, None]
    hits_PK = np.ceil((rewards_PK - 1) * asked_P1 / 2 - 1e-6)
    extra_PK = np.round(6 * (1 + 2 * hits_PK / asked_P1 - rewards_PK))
    return np.where(told, extra_PK, 0.0), np.where(told, hits_PK / asked_P1, 0.0)


def _rewards(samples: Sequence[Sampling]) -> Numbers:
    """[P, K]."""
    return np.stack([decode(sampling.earned, sampling.length).reward for sampling in samples], axis=1)


def _wins(own_PK: Numbers, rivals_PR: Numbers) -> Numbers:
    """[P, K], over all rivals."""
    gap = np.sign(own_PK[:, :, None] - rivals_PR[:, None, :])
    share: Numbers = ((gap + 1) / 2).mean(2)
    return share


def _mean(outcomes: Sequence[Outcomes], name: str) -> Numbers:
    found: Numbers = np.mean([getattr(each, name) for each in outcomes], axis=0)
    return found
