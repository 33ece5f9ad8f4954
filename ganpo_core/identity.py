"""What must be the same for a resumed run to be the same run: compared by name, and refused unless allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganpo_core.config.run import flatten
from ganpo_core.data import PairDataset
from ganpo_core.errors import CheckpointError, ConfigError
from ganpo_core.run import Run
from ganpo_core.suggest import did_you_mean
from ganpo_core.weights import fingerprint

FREE_TO_CHANGE = (
    "output_dir",
    "training.logging_steps",
    "training.eval_steps",
    "training.per_device_eval_batch_size",
    "training.save_steps",
    "training.save_total_limit",
    "training.report_to",
    "training.watchdog_seconds",
    "data.eval_path",
    "data.eval_split",
)
"""Keys of the run file that a resumed run may change: they do not touch the weights."""
OF_PROCESSES = ("training.gradient_accumulation_steps", "training.per_device_train_batch_size")
"""Keys that another number of processes may change."""


def identity(run: Run) -> dict[str, Any]:
    """What a checkpoint says about the run that wrote it, by name."""
    settings = {
        key: value for key, value in flatten(run.config.resolved) if not any(_under(key, free) for free in FREE_TO_CHANGE)
    }
    return {
        "settings": settings,
        "plugins": {name: provider.version for name, provider in run.config.plugins.providers.items()},
        "packages": {name: version(name) for name in ("torch", "transformers")},
        "data": run.pairs.fingerprint(),
        "reference": _reference(run),
    }


def check_identity(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    allowed: Sequence[str],
    same_processes: bool,
    changed_rows: Sequence[str],
) -> Iterator[str]:
    """What is changed and allowed, a line each. Raises CheckpointError naming every key that is changed and is not."""
    before, now = _by_name(saved), _by_name(json.loads(json.dumps(current)))
    known = sorted({*before, *now})
    for key in allowed:
        if not any(_under(name, key) for name in known):
            raise ConfigError(f"--allow: '{key}' is no key of a run.{did_you_mean(key, known)}")
    refused = []
    for key in known:
        if before.get(key) == now.get(key) or (key in OF_PROCESSES and not same_processes):
            continue
        change = f"{key}: was {before.get(key)!r}, is {now.get(key)!r}"
        if key == "data":
            change = f"data: {', '.join(changed_rows)}"
        if any(_under(key, name) for name in allowed):
            yield f"allowed to change: {change}"
        else:
            refused.append(change)
    if refused:
        raise CheckpointError(
            f"was written by another run, so resuming would mix the two. Changed: {'; '.join(refused)}. "
            "Undo the change, allow it with --allow KEY, or start again in a new output_dir"
        )


def compare_rows(saved: Mapping[str, Any], digests: Mapping[str, NDArray[np.int64]], pairs: PairDataset) -> list[str]:
    """Which rows are no longer what they were, in words.

    `saved` are the sources with their numbers of pairs, `digests` those of `PairDataset.digests`.
    """
    sources = dict(zip(pairs.sources, pairs.counts, strict=True))
    lines = [f"source {name} is gone" for name in saved if name not in sources]
    lines += [f"source {name} is new" for name in sources if name not in saved]
    start = 0
    for name, count in saved.items():
        theirs = slice(start, start + count)
        start += count
        if name not in sources:
            continue
        first = sum(list(sources.values())[: list(sources).index(name)])
        if sources[name] != count:
            lines.append(f"{name} gave {count} pairs and gives {sources[name]}")
        shared = min(sources[name], count)
        for part, now in pairs.digests.items():
            if part not in digests:  # a checkpoint of 0.1.0 holds those of tokens alone
                continue
            different = np.flatnonzero(now[first : first + shared] != digests[part][theirs][:shared])
            if len(different):
                rows = ", ".join(str(pairs[first + int(index)].row) for index in different[:5])
                more = f" and {len(different) - 5} more" if len(different) > 5 else ""
                lines.append(f"{name}: {part} changed in row {rows}{more}")
    return lines or ["the order of the sources"]


def _reference(run: Run) -> str | None:
    """What tells the reference from another one; None where it moves."""
    if run.config.training.sync_reference is not None:
        return None
    # Its weights may be gone where its values are kept.
    kept = run.reference_cache
    return fingerprint(run.models, run.sum_over_processes) if kept is None else kept.fingerprint


def _by_name(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("settings."): value for key, value in flatten(identity)}


def _under(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix + ".")
