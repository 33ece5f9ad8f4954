"""Lets the tests of this folder import `run_samples` (pytest's importlib mode puts no folder on the path), and makes runs."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from ganpo_report.runs import RunFolder, read_runs
from run_samples import CARD, GOOD, PLUGINS, SETTINGS, MakeRun, lines


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run's folder and reads it; `settings` by dotted path, `card` and `files` replace what is there."""

    def make(
        metrics: Sequence[Mapping[str, float]] | None = None,
        name: str = "dpo",
        settings: Mapping[str, Any] | None = None,
        card: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> RunFolder:
        folder = tmp_path / name
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

    return make


@pytest.fixture
def good() -> dict[str, Any]:
    """A copy of the metrics of a run as it should be."""
    return dict(GOOD)
