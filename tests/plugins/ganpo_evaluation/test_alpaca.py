"""AlpacaEval's annotations: the leaderboard's figures, and what cannot be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ganpo_evaluation.alpaca import length_controlled, read_annotations
from ganpo_evaluation.alpaca_results import draw, from_annotations, from_outputs
from ganpo_evaluation.function import Function
from ganpo_evaluation.results import show

from ganpo_core import DataError


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def row(preference: object, mine: str = "abc", base: str = "ab", **more: object) -> dict[str, Any]:
    return {"instruction": "do", "preference": preference, "output_1": base, "output_2": mine, "generator_1": "base",
            "generator_2": "mine", "annotator": "judge", **more}


@pytest.mark.parametrize("model", ["gemma-2b-it", "alpaca-7b"])
def test_annotations_give_the_leaderboards_figures(model: str, shared: Path) -> None:
    folder = shared / "data" / "eval" / "alpaca_eval"
    with (folder / "leaderboard_weighted_alpaca_eval_gpt4_turbo.csv").open() as file:
        published = next(row for row in csv.DictReader(file) if row[""] == model)
    result = from_annotations([folder / "annotations_weighted_gpt4_turbo" / f"{model}.json"], None, None, 0)
    found = result.rows[0]
    assert found["model"] == model
    assert found["win rate"] == pytest.approx(float(published["win_rate"]), abs=0.01)
    assert found["SE"] == pytest.approx(float(published["standard_error"]), abs=0.01)
    assert found["length"] == int(published["avg_length"])
    assert found["low"] < found["win rate"] < found["high"]  # type: ignore[operator]
    assert found["LC win rate"] is None  # needs AlpacaEval's gamed baselines


def test_a_preference_of_two_is_a_win_and_zero_a_tie(tmp_path: Path) -> None:
    found = read_annotations(written(tmp_path / "a.json", [row(2.0), row(1.25), row(0), row(None)]))
    assert found.wins == (1.0, 0.25, 0.5)
    assert (found.lengths[0], found.base_lengths[0], found.skipped) == (3, 2, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(3.0)], r"row 0: a preference is 3.0; AlpacaEval writes 1 \(output_1\) to 2"),
        ([row(1.5), row(0.3)], "row 1: a preference is 0.3; .* to wins in 0 to 1, add 1"),
        ([row(True)], "row 0: a preference is True"),
        ([row(1.5, mine=None)], "row 0: output_2 is None, not text"),  # type: ignore[arg-type]
        ([row(None)], "no row has a preference"),
        ([row(1.5), row(1.5, generator_2="other")], "generator_2 is not one model but mine, other"),
        ([{"preference": 1}], "row 0 lacks output_1, output_2"),
    ],
)
def test_flawed_annotations_are_named(rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_annotations(written(tmp_path / "a.json", rows))


def test_a_model_against_itself_is_at_one_half_by_construction(tmp_path: Path) -> None:
    found = read_annotations(written(tmp_path / "a.json", [row(1.9, generator_2="base")] * 4))
    assert length_controlled(found, None)[1].rate == 0.5


def test_the_gamed_baselines_make_the_leaderboards_form(tmp_path: Path) -> None:
    """Wins drawn with a known effect of length; gamed rows in which length alone wins say the same of it."""
    pytest.importorskip("sklearn")
    draw_from = np.random.default_rng(0)
    lines = ["preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    difficulties = draw_from.normal(size=60)
    for index, hard in enumerate(difficulties):
        for gap in (-1.0, 1.0):
            lines.append(f"{1 / (1 + np.exp(2 * np.tanh(gap)))},{index},{gap},{hard},False")
    gamed = tmp_path / "df_gamed.csv"
    gamed.write_text("\n".join(lines) + "\n")
    lengths = draw_from.integers(50, 400, 60)
    gaps = (200 - lengths) / (200 - lengths).std(ddof=1)
    wins = 1 / (1 + np.exp(2 * np.tanh(gaps)))
    rows = [row(1 + win, "x" * length, "y" * 200) for win, length in zip(wins, lengths, strict=True)]
    found = read_annotations(written(tmp_path / "a.json", rows))
    form, controlled = length_controlled(found, gamed)
    assert form == "length_controlled_v1"
    assert controlled.rate == pytest.approx(0.5, abs=0.02)
    assert controlled.weights[0] == pytest.approx(-2, abs=0.2)
    assert np.mean(found.wins) > 0.52
    with pytest.raises(DataError, match="needs all 805 rows in AlpacaEval's order"):
        length_controlled(read_annotations(written(tmp_path / "b.json", rows[:50])), gamed)


def test_a_judge_compares_outputs_with_the_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By length: longer, equal, shorter -> 1, 0.5, 0."""
    judge = tmp_path / "longest.py"
    judge.write_text("def score(prompt, response):\n    return len(response)\n")
    base = [{"instruction": f"i{k}", "output": "1234", "generator": "base"} for k in range(3)]
    mine = [{"instruction": f"i{k}", "output": "12345"[: 5 - k], "generator": "mine"} for k in range(3)]
    result = from_outputs(
        [written(tmp_path / "mine.json", mine)], written(tmp_path / "base.json", base), Function(str(judge)), "f", None, None, 0
    )
    assert result.rows[0]["win rate"] == 50.0
    assert result.rows[0]["length"] == 4
    show(result, tmp_path / "out", lambda figure: draw(result, figure))
    saved = json.loads((tmp_path / "out" / "alpaca.json").read_text())
    assert saved["rows"][0]["win rate"] == 50.0
    assert saved["paper"]["source"] == "arXiv 2601.22083"
    assert (tmp_path / "out" / "alpaca.png").read_bytes()[:4] == b"\x89PNG"
    assert "paper: Gemma2-2B-it DPO" in capsys.readouterr().out
    with pytest.raises(DataError, match="no output for the instruction 'i2'"):
        from_outputs([tmp_path / "mine.json"], written(tmp_path / "b.json", base[:2]), Function(str(judge)), "f", None, None, 0)
