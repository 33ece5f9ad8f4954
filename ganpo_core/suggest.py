"""Near-misses, said the same way everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known name, or an empty string."""
    nearest = closest(name, known)
    return f" Did you mean '{nearest}'?" if nearest else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name with the fewest typing slips from `name`, if it is near at all."""
    wanted = str(name).lower()
    ranked = sorted((_slips(wanted, other.lower()), -_likeness(wanted, other.lower()), other) for other in known)
    if not ranked:
        return None
    slips, likeness, nearest = ranked[0]
    return nearest if slips <= 1 or -likeness >= 0.6 else None


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _slips(one: str, other: str) -> int:
    """Letters dropped, added, replaced or swapped with a neighbour: the optimal string alignment distance."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, target in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != target))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == target:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]
