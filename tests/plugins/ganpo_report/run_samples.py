"""Hand-made runs: what training leaves in a folder, and metrics of a run as it should be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ganpo_report.runs import RunFolder, read_runs

MakeRun = Callable[..., RunFolder]

SETTINGS: dict[str, Any] = {
    "plugins": [],
    "seed": 0,
    "model": {"path": "/models/tiny", "dtype": "float32"},
    "data": {"path": "/data/pairs.jsonl", "max_length": 128},
    "objective": {"use": "dpo", "beta": 0.1},
    "training": {"learning_rate": 1e-4, "max_steps": 40, "max_grad_norm": 1.0},
    "output_dir": "/runs/x",
}
CARD: dict[str, Any] = {
    "started": "2026-01-02T03:04:05+00:00",
    "command": ["ganpo", "train", "run.yaml"],
    "git": {"project": {"commit": "a" * 40, "changed": True}, "ganpo": None},
    "device": "cpu",
    "resumed": [{"started": "2026-02-03T04:05:06+00:00"}],
    "processes": 1,
    "max_steps": 40,
    "pairs_per_step": 4,
    "model": {"path": "/models/tiny", "commit": None, "files": {"model.safetensors": "b" * 64}},
    "reference": None,
    "data": {
        "sources": [{"path": "/data/pairs.jsonl", "split": None, "files": {"pairs.jsonl": "c" * 64}}],
        "report": ["pairs.jsonl: 100 rows, 99 kept; dropped: 1 empty_response"],
        "pairs": 99,
        "tokens": "d" * 64,
        "mean_lengths": {"prompt": 5.0, "chosen": 10.0, "rejected": 10.0},
    },
    "evaluation": None,
}
PLUGINS = {"python": "3.11.7", "packages": {"ganpo": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}, "plugins": {}}


def lines(steps: int = 4, **metrics: Any) -> list[dict[str, float]]:
    """A line every ten steps; a metric is a constant or (first, …, last). `__` in a name stands for `/`."""
    found = []
    for index in range(steps):
        line: dict[str, float] = {"step": 10 * (index + 1)}
        for name, values in metrics.items():
            line[name.replace("__", "/")] = values[index] if isinstance(values, tuple) else values
        found.append(line)
    return found


GOOD: dict[str, Any] = {
    "rewards__margins": (0.0, 0.1, 0.2, 0.3),
    "rewards__accuracies": (0.5, 0.6, 0.7, 0.8),
    "rewards__chosen": (0.0, -0.1, -0.2, -0.4),
    "rewards__rejected": (0.0, -0.2, -0.4, -0.7),
    "objective_loss": (0.69, 0.66, 0.62, 0.58),
    "shifts__chosen": (0.0, -1.0, -2.0, -4.0),
    "shifts__rejected": (0.0, -2.0, -4.0, -9.0),
    "lengths__chosen": 10.0,
    "lengths__rejected": 10.0,
    "grad_norm": (0.5, 0.6, 0.5, 0.6),
}
"""A run of DPO as it should be: chosen down 0.4 nats a token, rejected 0.9."""
GAME: dict[str, Any] = {
    f"adversary__{side}__{name}": value
    for side in ("chosen", "rejected")
    for name, value in {
        "accuracy": 0.8, "gap": 0.5, "score_anchor": 0.5, "score_policy": 0.0, "score_cross": -0.5, "critic_loss": 0.7,
        "estimate": 0.1,
    }.items()
} | {"adversary__penalty": 0.1, "adversary__gradient_ratio": 0.1}  # fmt: skip
"""What a game with two healthy critics logs beside it."""


def write_run(
    root: Path,
    metrics: Sequence[Mapping[str, float]] | None = None,
    name: str = "dpo",
    settings: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> RunFolder:
    """Writes a run's folder and reads it; `settings` by dotted path, `card` and `files` replace what is there."""
    folder = root / name
    folder.mkdir(parents=True)
    run = copy.deepcopy(SETTINGS)
    for path, value in (settings or {}).items():
        section = run
        *parents, key = path.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    (folder / "run.yaml").write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
    (folder / "plugins.json").write_text(json.dumps(PLUGINS), encoding="utf-8")
    if card is not None or name != "old":
        (folder / "card.json").write_text(json.dumps({**CARD, **(card or {})}), encoding="utf-8")
    written = lines(**GOOD) if metrics is None else metrics
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written), encoding="utf-8")
    for path, text in (files or {}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return read_runs([folder])[0]
