"""How long the pairs of a run are, and what each layout of a batch makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganpo_core.data import Packing


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompt, chosen and rejected response of some pairs."""

    table: NDArray[np.int64]
    """[pairs, 3]; a response that is missing (unpaired data) has 0."""
    origin: str
    """Where they come from, for the reader."""

    @classmethod
    def assumed(cls, prompt: int, response: int) -> Lengths:
        """One pair that stands for all."""
        return cls(np.array([[prompt, response, response]], dtype=np.int64), "assumed")

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of prompt, chosen and rejected."""
        prompt, chosen, rejected = self.table.mean(axis=0).tolist()
        return prompt, chosen, rejected

    @property
    def median(self) -> tuple[float, float, float]:
        """Of prompt, chosen and rejected."""
        prompt, chosen, rejected = np.median(self.table, axis=0).tolist()
        return prompt, chosen, rejected

    @property
    def responses(self) -> float:
        """Response tokens of a mean pair."""
        return float(self.table[:, 1:].sum(axis=1).mean())

    @property
    def sequences(self) -> float:
        """Tokens of a mean pair's two sequences, the prompt in both: what critics read."""
        return float(_sequences(self.table).sum(axis=1).mean())

    @property
    def row(self) -> int:
        """Tokens of a mean sequence."""
        return max(1, round(self.sequences / 2))

    def tokens(self, layout: Packing, pairs: int) -> float:
        """Positions computed for a mean pair in micro-batches of `pairs`, in the order of the data."""
        if layout == "padded":
            return float(np.mean([2 * group.max() * len(group) for group in self._groups(pairs)])) / self._size(pairs)
        return float(_positions(self.table, layout).mean())

    def largest(self, layout: Packing, pairs: int) -> float:
        """Positions of the largest micro-batch of `pairs` that the data could make."""
        if layout == "padded":
            return float(2 * pairs * _sequences(self.table).max())
        longest = np.sort(_positions(self.table, layout))[::-1][:pairs]
        return float(longest.sum() * pairs / len(longest))

    def attended(self, layout: Packing, pairs: int) -> float:
        """(query, key) positions of a mean pair, causal; sliding windows are counted as if they were whole."""
        prompt, chosen, rejected = self.table.astype(np.float64).T
        if layout == "padded":
            return float(np.mean([(group.max() ** 2) * len(group) for group in self._groups(pairs)])) / self._size(
                pairs
            )
        if layout == "packed":
            return float((((prompt + chosen) ** 2 + (prompt + rejected) ** 2) / 2).mean())
        own = (prompt**2 + chosen**2 + rejected**2) / 2
        return float((own + prompt * (chosen + rejected)).mean())

    def _groups(self, pairs: int) -> list[NDArray[np.int64]]:
        """The longer sequence of each pair, micro-batch by micro-batch; the last, smaller one is left out."""
        longest, size = _sequences(self.table).max(axis=1), self._size(pairs)
        whole = len(longest) // size * size
        return list(longest[:whole].reshape(-1, size))

    def _size(self, pairs: int) -> int:
        return min(pairs, len(self.table))


def _sequences(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """[pairs, 2]: tokens of both sequences; none where the response is missing."""
    responses = table[:, 1:]
    return np.asarray(np.where(responses > 0, responses + table[:, :1], 0))


def _positions(table: NDArray[np.int64], layout: Packing) -> NDArray[np.int64]:
    rows = table if layout == "shared" else _sequences(table)
    return np.asarray(rows.sum(axis=1))
