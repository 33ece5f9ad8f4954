"""What `ganpo report` shows of a run in the lab: its rows beside the reference's, and answers to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ganpo_lab.evaluate import Row
from ganpo_lab.sampling import gumbel_noise, sample
from ganpo_lab.tables import FOOTNOTE
from ganpo_lab.world import Request

NUM_SAMPLES = 12
REFERENCES = ("reference", "colder reference")


def write_records(folder: Path, name: str, rows: Sequence[Row], requests: Sequence[Request], policy: Any) -> None:
    """`evaluation/recordworld.json` and `samples.json`, the latter at T = 1 with the same noise for every policy."""
    (folder / "evaluation").mkdir(exist_ok=True)
    kept = [asdict(row) for row in rows if row.policy in (*REFERENCES, name)]
    table = {"title": "RecordWorld", "columns": list(kept[0]), "rows": kept, "notes": [FOOTNOTE.replace("T with *", "matched")]}
    (folder / "evaluation" / "recordworld.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    shown = list(requests[:NUM_SAMPLES])
    answers = sample(policy, shown, 1.0, gumbel_noise(len(shown), 0))
    outputs = [
        {"instruction": request.prompt, "output": " ".join(answer), "generator": name, "temperature": 1.0}
        for request, answer in zip(shown, answers, strict=True)
    ]
    (folder / "samples.json").write_text(json.dumps(outputs, indent=1), encoding="utf-8")
