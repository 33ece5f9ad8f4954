"""Tokenized preference pairs, held compactly."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ganpo_core.data.images import PromptImages


@dataclass(frozen=True)
class TokenPair:
    """Token ids of one prompt and of its two responses, the end-of-sequence token included."""

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    source: str
    """The name of the source, as the data report has it."""
    row: int
    """1 for the first row of the source."""
    preference: float | None = None
    """The probability that the chosen response is the better one, where the data say."""
    images: PromptImages | None = None
    """The prompt's, perhaps none; None where the model reads text alone."""

    @property
    def is_single(self) -> bool:
        """True for one response of unpaired data: desirable ones are chosen, and the other side is empty."""
        return not (self.chosen and self.rejected)

    @property
    def length(self) -> int:
        """Tokens of the longer side, prompt included."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


class PairDataset(Sequence[TokenPair]):
    """Pairs in one flat array of token ids: 4 bytes per token, and little more per pair."""

    def __init__(self, pairs: Iterable[TokenPair], weights: Mapping[str, float] | None = None) -> None:
        """`pairs` come source after source; `weights` are by source name, 1 for those not named."""
        tokens, lengths, rows = array("i"), array("i"), array("q")
        preferences = array("d")
        images: list[PromptImages | None] = []
        counts: dict[str, int] = {}
        for pair in pairs:
            if pair.source in counts and pair.source != next(reversed(counts)):
                raise ValueError(f"the pairs of source '{pair.source}' are not together")
            counts[pair.source] = counts.get(pair.source, 0) + 1
            rows.append(pair.row)
            preferences.append(math.nan if pair.preference is None else pair.preference)
            images.append(pair.images)
            for side in (pair.prompt, pair.chosen, pair.rejected):
                tokens.extend(side)
                lengths.append(len(side))
        self.sources = tuple(counts)
        """The names of the sources, in the order of their pairs."""
        self.counts = tuple(counts.values())
        """The number of pairs of each source."""
        self.weights = tuple((weights or {}).get(name, 1.0) for name in counts)
        """How often an epoch repeats each source."""
        self._images = images if any(images) else None
        self._tokens = np.array(tokens, dtype=np.int32)
        self._rows = np.array(rows, dtype=np.int64)
        self._lengths = np.array(lengths, dtype=np.int32).reshape(-1, 3)
        self._preferences = np.array(preferences, dtype=np.float64)
        self._starts = np.concatenate([[0], self._lengths.sum(axis=1, dtype=np.int64).cumsum()])
        self._source_of = np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """[pairs, 3]: tokens of each prompt, chosen response and rejected response."""
        return self._lengths

    @property
    def is_unpaired(self) -> bool:
        """True where single responses are among the rows."""
        return bool((self._lengths[:, 1:] == 0).any())

    @property
    def is_mixed(self) -> bool:
        """True where both pairs and single responses are."""
        return self.is_unpaired and not bool((self._lengths[:, 1:] == 0).any(axis=1).all())

    @property
    def has_preferences(self) -> bool:
        """True where every pair says how probable it is that the chosen response is the better one."""
        return not bool(np.isnan(self._preferences).any())

    @property
    def images(self) -> Sequence[PromptImages | None]:
        """The images of each pair's prompt; None where the model reads text alone."""
        return self._images or [None] * len(self)

    @property
    def with_images(self) -> list[int]:
        """The pairs whose prompt holds an image, by index."""
        return [index for index, images in enumerate(self._images or ()) if images is not None and images.count]

    @property
    def longest(self) -> int:
        """Tokens of the longest row, prompt included."""
        return int((self._lengths[:, 0] + self._lengths[:, 1:].max(axis=1)).max())

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> TokenPair: ...

    @overload
    def __getitem__(self, index: slice) -> list[TokenPair]: ...

    def __getitem__(self, index: int | slice) -> TokenPair | list[TokenPair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        index %= len(self)
        prompt, chosen, _ = self._lengths[index]
        tokens = tuple(self._tokens[self._starts[index] : self._starts[index + 1]].tolist())
        sides = tokens[:prompt], tokens[prompt : prompt + chosen], tokens[prompt + chosen :]
        known = None if np.isnan(self._preferences[index]) else float(self._preferences[index])
        images = None if self._images is None else self._images[index]
        return TokenPair(*sides, self.sources[self._source_of[index]], int(self._rows[index]), known, images)

    def __iter__(self) -> Iterator[TokenPair]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def digests(self) -> dict[str, NDArray[np.int64]]:
        """[pairs] each, by what they tell apart: `tokens`, where two pairs that differ in a token or a length differ,
        `preferences`, and `images`."""
        seen = [hashlib.sha256(b"" if images is None else images.digest).digest() for images in self.images]
        return {
            "tokens": self._token_digests(),
            "preferences": self._preferences.view(np.int64),
            "images": np.array([int.from_bytes(own[:8], "little", signed=True) for own in seen], dtype=np.int64),
        }

    def _token_digests(self) -> NDArray[np.int64]:
        # A random multiplier per place makes the sum depend on the order; integers wrap, so it is exact anywhere.
        draw = np.random.default_rng(0)
        places = draw.integers(1, 2**63, size=int(np.diff(self._starts).max(initial=0)), dtype=np.uint64) | np.uint64(1)
        sides = draw.integers(1, 2**63, size=3, dtype=np.uint64)
        sums = np.zeros(len(self), dtype=np.uint64)
        for index in range(len(self)):
            tokens = self._tokens[self._starts[index] : self._starts[index + 1]].astype(np.uint64)
            sums[index] = ((tokens + np.uint64(1)) * places[: len(tokens)]).sum(dtype=np.uint64)
        sums += (self._lengths.astype(np.uint64) * sides).sum(axis=1, dtype=np.uint64)
        return sums.view(np.int64)

    def fingerprint(self) -> str:
        """sha256 over token ids, lengths, preferences and images: equal where two datasets hold the same in the same order."""
        digest = hashlib.sha256()
        for values in (self._lengths, self._tokens):
            digest.update(np.ascontiguousarray(values, dtype="<i4").tobytes())
        if not np.isnan(self._preferences).all():
            digest.update(np.ascontiguousarray(self._preferences, dtype="<f8").tobytes())
        for images in self._images or ():
            digest.update(b"" if images is None else images.digest)
        return digest.hexdigest()
