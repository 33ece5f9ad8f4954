"""What is logged of every pair beside the objective: lengths, and shifts against the reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ganpo_core

MakeRun = Callable[..., dict[str, Any]]


def logged(run_file: dict[str, Any]) -> list[dict[str, float]]:
    folder = ganpo_core.train(run_file)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def training(**options: Any) -> dict[str, Any]:
    return {"learning_rate": 1e-2, "max_steps": 4, "per_device_train_batch_size": 12, "logging_steps": 1, **options}


def test_a_shift_is_the_reward_over_beta_and_starts_at_nothing(tiny_run: MakeRun, tiny_pairs: Path) -> None:
    """DPO's reward is beta times the log-ratio. Four steps of twelve pairs see each of the 48 once: the lengths' mean
    is that of the file, a token a word and the end of sequence."""
    lines = logged(tiny_run(objective={"use": "dpo", "beta": 0.5}, training=training()))
    assert lines[0]["shifts/chosen"] == pytest.approx(0.0, abs=1e-5)
    assert abs(lines[-1]["shifts/chosen"]) > 1e-3
    for side in ("chosen", "rejected"):
        assert lines[-1][f"shifts/{side}"] == pytest.approx(lines[-1][f"rewards/{side}"] / 0.5, rel=1e-4)
        rows = [json.loads(line)[side] for line in tiny_pairs.read_text(encoding="utf-8").splitlines()]
        words = sum(len(text.split()) + 1 for text in rows)
        assert sum(line[f"lengths/{side}"] for line in lines) / 4 == pytest.approx(words / 48)


def test_without_a_reference_there_is_no_shift(tiny_run: MakeRun) -> None:
    [line] = logged(tiny_run(objective={"use": "simpo"}, training=training(max_steps=1)))
    assert "lengths/chosen" in line
    assert "shifts/chosen" not in line


def test_single_responses_are_logged_by_their_side(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> None:
    """Three desirable responses of 4 words and one undesirable of 2, the end of sequence on top."""
    rows = [{"prompt": "<bos> w1", "completion": " w2 w3 w4 w5", "label": True}] * 3
    rows += [{"prompt": "<bos> w1", "completion": " w6 w7", "label": False}]
    path = tmp_path / "single.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run_file = tiny_run(
        data={"path": str(path)}, objective={"use": "kto"}, training=training(max_steps=1, per_device_train_batch_size=4)
    )
    [line] = logged(run_file)
    assert (line["lengths/chosen"], line["lengths/rejected"]) == (5.0, 3.0)
    assert line["shifts/rejected"] == pytest.approx(0.0, abs=1e-5)
