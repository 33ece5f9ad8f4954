"""A row made again from scratch beside the committed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganpo_core.statistics import Interval, bootstrap_over_seeds
from ganpo_lab.measure import Sampling
from ganpo_lab.outcomes import Outcomes, decode

MEASURES = ("reward", "valid", "strict", "length")


@dataclass(frozen=True)
class Agreement:
    """One number of both."""

    what: str
    committed: Interval
    """With its 95 % interval over prompts."""
    again: float

    @property
    def holds(self) -> bool:
        """The number made again lies within the committed one's interval."""
        return self.committed.low - 1e-9 <= self.again <= self.committed.high + 1e-9

    def __str__(self) -> str:
        return f"{'agrees ' if self.holds else 'DIFFERS'}  {self.what}: committed {self.committed}, again {self.again:.3f}"


def compare(committed: Mapping[str, Any], again: Mapping[str, Any]) -> list[Agreement]:
    """Every sampled number of one row and seed; both at the temperatures that each of them found."""
    answers = _by_place(again)
    return [
        Agreement(f"{place} {measure}", _interval(getattr(outcomes, measure)), float(getattr(answers[place], measure).mean()))
        for place, outcomes in _by_place(committed).items()
        for measure in MEASURES
    ]


def _by_place(result: Mapping[str, Any]) -> dict[str, Outcomes]:
    found = {}
    for saved in result["samples"]:
        sampling = Sampling.of_json(saved)
        if sampling.kind == "own":
            read = "matched to the reference" + " on own answers" * sampling.on_own if sampling.matched else "sampled"
            # A matched temperature is itself made again, so it is no part of the place.
            at = sampling.at if sampling.matched else sampling.temperature
            found[f"{read} at {at:g} ({sampling.replicate + 1})"] = decode(sampling.earned, sampling.length)
    return found


def _interval(values: np.ndarray[Any, np.dtype[np.float64]]) -> Interval:
    def mean(_: int, counts: np.ndarray[Any, np.dtype[np.float64]]) -> float:
        return float(values @ counts / counts.sum())

    return bootstrap_over_seeds(mean, [len(values)])
