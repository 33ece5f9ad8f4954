"""What the oracle says of one answer, as one letter, so that every answer of a run fits into a small file.

An answer is invalid (a dot), or has one of 16 rewards and one of three grades: its keys are exactly those asked for
(strict), or more than those (loose), or some are missing.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganpo_lab.world import Verdict

INVALID = "."
LETTERS = string.ascii_letters + string.digits
REWARDS = tuple(
    sorted(
        {
            round(1 + 2 * hits / asked - 0.5 * extra / 3, 9)
            for asked in (1, 2, 3)
            for hits in range(asked + 1)
            for extra in range(4)
        }
    )
)
"""Every reward of a valid answer, ascending."""
GRADES = ("incomplete", "loose", "strict")


@dataclass(frozen=True)
class Outcomes:
    """The judgement of many answers, in the order of their prompts."""

    reward: NDArray[np.float64]
    strict: NDArray[np.float64]
    """1 or 0."""
    loose: NDArray[np.float64]
    length: NDArray[np.float64]
    """Tokens, the end of sequence included."""

    @property
    def valid(self) -> NDArray[np.float64]:
        """1 or 0: an answer that breaks the grammar earns nothing, any other earns something."""
        return (self.reward > 0).astype(np.float64)


def encode(verdicts: Sequence[Verdict], lengths: Sequence[int]) -> tuple[str, str]:
    """A letter an answer for what it earned, and one for how long it is."""
    return "".join(map(_letter, verdicts)), "".join(LETTERS[length] for length in lengths)


def decode(earned: str, length: str) -> Outcomes:
    """What `encode` was given."""
    places = [None if letter == INVALID else divmod(LETTERS.index(letter), len(GRADES)) for letter in earned]
    grades = [-1 if place is None else place[1] for place in places]
    return Outcomes(
        reward=np.array([0.0 if place is None else REWARDS[place[0]] for place in places]),
        strict=np.array([float(grade == 2) for grade in grades]),
        loose=np.array([float(grade >= 1) for grade in grades]),
        length=np.array([float(LETTERS.index(letter)) for letter in length]),
    )


def _letter(verdict: Verdict) -> str:
    if not verdict.valid:
        return INVALID
    grade = 2 if verdict.strict else 1 if verdict.loose else 0
    return LETTERS[len(GRADES) * REWARDS.index(round(verdict.reward, 9)) + grade]
