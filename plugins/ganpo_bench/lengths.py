"""Lengths of preference pairs: drawn like a published data set's, or read from a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganpo_core import DataError

LONGEST = 2048
"""Tokens of a sequence."""


@dataclass(frozen=True)
class Distribution:
    """Log-normal lengths of prompt, chosen and rejected response, independent of one another."""

    means: tuple[float, float, float]
    """Of what is drawn; cutting lowers them a little."""
    spreads: tuple[float, float, float]
    """Standard deviations of the logarithms."""


DISTRIBUTIONS = {
    # Means 178, 365 and 340 after the cut; the longer response of a pair has 490 tokens on average, so that padding
    # wastes 1.26 / 1.62 / 2.0 / 2.4 times the tokens at 1 / 2 / 4 / 8 pairs a batch.
    "ultrafeedback": Distribution((184.0, 369.0, 343.0), (1.0, 0.72, 0.72)),
    # Median 186 tokens of prompt and response, the prompt 2.15 times as long (arXiv 2410.20305).
    "hh": Distribution((155.0, 73.0, 68.0), (0.8, 0.8, 0.8)),
}


def draw_lengths(name: str, count: int, seed: int, scale: float = 1.0) -> NDArray[np.int64]:
    """[count, 3], of at least one token each; sequences are cut at 2048 tokens, prompts at half of that."""
    known = DISTRIBUTIONS[name]
    means, spreads = np.array(known.means), np.array(known.spreads)
    drawn = np.random.default_rng(seed).lognormal(np.log(means) - spreads**2 / 2, spreads, (count, 3))
    prompt = np.minimum(drawn[:, :1], LONGEST / 2)
    responses = np.minimum(drawn[:, 1:], LONGEST - prompt)
    return np.maximum(1, np.concatenate([prompt, responses], axis=1) * scale).astype(np.int64)


def read_lengths(path: Path) -> NDArray[np.int64]:
    """[rows, 3] from JSON or JSONL: rows `[prompt, chosen, rejected]` or mappings of those names, counts or token lists."""
    text = path.read_text(encoding="utf-8")
    try:
        rows = json.loads(text) if text.lstrip().startswith("[[") or path.suffix == ".json" else None
        rows = rows if rows is not None else [json.loads(line) for line in text.splitlines() if line.strip()]
        found = [
            [_count(row[key]) for key in ("prompt", "chosen", "rejected")] if isinstance(row, dict) else row
            for row in rows
        ]
        table = np.array(found, dtype=np.int64).reshape(len(found), 3)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected rows of prompt, chosen and rejected lengths ({error})") from error
    if not len(table) or (table < 1).any():
        raise DataError(f"{path}: every length is at least 1")
    return table


def _count(value: object) -> int:
    return len(value) if isinstance(value, list) else int(str(value))
