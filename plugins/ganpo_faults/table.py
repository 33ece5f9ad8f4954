"""What the trials came to: the table, and the same as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ganpo_faults.trial import Family, Trial

Results = Mapping[str, Sequence[Trial]]


def write_table(families: Sequence[Family], results: Results) -> str:
    """A Markdown table with a row a family: what must hold, what was measured, what peers were measured to do."""
    lines = ["| test | must | measured | peers |", "|---|---|---|---|"]
    for family in families:
        lines.append(f"| {family.title} | {family.must} | {_count(results[family.name])} | {family.peers} |")
    failures = [
        f"FAILED  {family.name}: {trial.name}: {trial.detail}"
        for family in families
        for trial in results[family.name]
        if not trial.passed
    ]
    return "\n".join([*lines, *failures])


def write_json(families: Sequence[Family], results: Results, seconds: Mapping[str, float], path: Path) -> None:
    """Every trial, with the date and the machine."""
    found: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "families": {
            family.name: {
                "title": family.title,
                "must": family.must,
                "passed": sum(trial.passed for trial in results[family.name]),
                "trials": len(results[family.name]),
                "seconds": round(seconds[family.name], 1),
                "each": [
                    {"name": trial.name, "passed": trial.passed, "detail": trial.detail}
                    for trial in results[family.name]
                ],
            }
            for family in families
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _count(trials: Sequence[Trial]) -> str:
    return f"{sum(trial.passed for trial in trials)} of {len(trials)}"
