"""Which pair comes when: a pure function of the seed and the sources, so that one integer resumes a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ganpo_core.data.dataset import PairDataset


class PairOrder:
    """An endless stream of pair indices, epoch after epoch, each epoch in an order of its own.

    A source of n pairs and weight w gives round(w * n) pairs to an epoch: every pair as often as w has ones, and of
    the rest a part that moves on with each epoch until the pairs are used up, then starts over in a new order.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """`counts` and `weights` are per source; the pairs of a source have consecutive indices."""
        self.counts = tuple(counts)
        self.shares = tuple(round(weight * count) for count, weight in zip(counts, weights, strict=True))
        """Pairs per epoch of each source."""
        self.seed = seed
        self.pairs_per_epoch = sum(self.shares)
        if self.pairs_per_epoch < 1:
            raise ValueError("the sources give no pair to an epoch")
        self._latest: tuple[int, NDArray[np.int64]] | None = None

    @classmethod
    def of(cls, dataset: PairDataset, seed: int) -> PairOrder:
        """The order of a dataset's pairs, by its counts and weights."""
        return cls(dataset.counts, dataset.weights, seed)

    def indices(self, start: int, count: int) -> list[int]:
        """The pairs at positions `start` to `start + count` of the stream, across epochs where it comes to that."""
        found: list[int] = []
        while len(found) < count:
            epoch, offset = divmod(start + len(found), self.pairs_per_epoch)
            found += self.epoch(epoch)[offset : offset + count - len(found)].tolist()
        return found

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The pairs of one epoch, in order."""
        if self._latest is None or self._latest[0] != epoch:
            # Kept because a run asks for one epoch many times in a row; the values depend on the arguments alone.
            self._latest = (epoch, self._permutation(self._members(epoch), 0, epoch))
        return self._latest[1]

    def _members(self, epoch: int) -> NDArray[np.int64]:
        """The pairs of one epoch, before they are shuffled."""
        parts, first = [], 0
        for source, (count, share) in enumerate(zip(self.counts, self.shares, strict=True)):
            pairs = np.arange(first, first + count, dtype=np.int64)
            whole, part = divmod(share, count) if count else (0, 0)
            parts.append(np.tile(pairs, whole))
            if part:
                cycle, turn = divmod(epoch, count // part)
                drawn = self._permutation(pairs, 1, source, cycle)
                parts.append(drawn[turn * part : (turn + 1) * part])
            first += count
        return np.concatenate(parts)

    def _permutation(self, values: NDArray[np.int64], *key: int) -> NDArray[np.int64]:
        """`values` shuffled by a generator of their own; the global generators are neither read nor moved."""
        return np.random.default_rng([self.seed, *key]).permutation(values)
