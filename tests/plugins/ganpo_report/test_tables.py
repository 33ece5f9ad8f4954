"""Evaluations and outputs in a run's folder: what is accepted, how runs are merged, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ganpo_report.charts import table_charts
from ganpo_report.comparisons import evaluated
from ganpo_report.tables import Table, find, merge, number

SWEEP = {
    "title": "Temperature sweep",
    "columns": ["policy", "temperature", "valid"],
    "rows": [["dpo", 0.5, 0.98], ["dpo", 1.0, 0.76]],
    "notes": "512 prompts",
    "paper": [{"policy": "DPO (paper)", "temperature": 1.0, "valid": None}],
}


def write(folder: Path, name: str, value: Any) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_rows_may_be_lists_or_mappings_or_the_whole_file(tmp_path: Path) -> None:
    write(tmp_path, "evaluation/sweep.json", SWEEP)
    write(tmp_path, "evaluation/length_buckets.json", {"rows": [{"bucket": "0-9", "win": 0.5, "n": 4}]})
    write(tmp_path, "evaluation/plain.json", [{"policy": "a", "reward": 1.5}])
    buckets, plain, sweep = find(tmp_path, "run").tables
    assert sweep.rows[1] == {"policy": "dpo", "temperature": 1.0, "valid": 0.76}
    assert (sweep.notes, sweep.paper[0]["policy"]) == (("512 prompts",), "DPO (paper)")
    assert (buckets.title, buckets.columns, buckets.numeric) == ("length buckets", ("bucket", "win", "n"), ("win", "n"))
    assert (plain.title, plain.column("REWARD".lower()), plain.file) == ("plain", "reward", "evaluation/plain.json")


def test_what_is_neither_table_nor_outputs_is_named_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, "evaluation/a.json", "{")
    write(tmp_path, "evaluation/b.json", {"score": 1})
    found = find(tmp_path, "run")
    assert not found.tables and not found.outputs
    assert found.refused[0].startswith("run/evaluation/a.json is not JSON")
    assert found.refused[1] == "run/evaluation/b.json has no `columns` and `rows`, and is no list of outputs"


def test_outputs_are_told_apart_by_generator_and_temperature(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Say a.", "output": "a", "generator": "dpo", "temperature": 0.5},
        {"instruction": "Say a.", "output": "b", "generator": "dpo", "temperature": 1.0},
        {"instruction": "Say c.", "output": "", "generator": "dpo", "temperature": 1.0},
    ]
    write(tmp_path, "samples.json", rows)
    cold, warm = find(tmp_path, "dpo").outputs
    assert (cold.title, warm.title) == ("dpo, T = 0.5", "dpo, T = 1.0")
    assert warm.responses == {"Say a.": "b", "Say c.": ""}
    write(tmp_path, "samples.json", [{"instruction": "Say a.", "output": "a", "generator": "policy"}])
    assert find(tmp_path, "dpo").outputs[0].title == "dpo: policy"


def test_tables_of_several_runs_become_one_and_shared_rows_appear_once() -> None:
    columns = ("policy", "temperature", "valid")
    shared = {"policy": "reference", "temperature": 1.0, "valid": 0.9}
    one = Table("lab", columns, (shared, {"policy": "dpo", "temperature": 1.0, "valid": 0.7}), run="dpo")
    two = Table("lab", columns, (shared, {"policy": "mse", "temperature": 1.0, "valid": 0.8}), run="mse")
    [merged] = merge([one, two])
    assert [row["policy"] for row in merged.rows] == ["reference", "dpo", "mse"]
    assert merged.columns == columns
    # The same name with other numbers: the rows do not say whose they are.
    clash = Table("lab", columns, ({"policy": "dpo", "temperature": 1.0, "valid": 0.1},), run="again")
    [merged] = merge([one, clash])
    assert merged.columns == ("run", *columns)
    assert [row["run"] for row in merged.rows] == ["dpo", "dpo", "again"]
    assert len(merge([one, Table("else", columns, one.rows)])) == 2


def test_number() -> None:
    assert number(2) == 2.0
    assert math.isnan(number(True)) and math.isnan(number("2")) and math.isnan(number(None))


def test_a_sweep_is_drawn_with_its_matched_points_apart() -> None:
    points = (("a", 0.5, False, 0.9), ("a", 1.0, False, 0.8), ("a", 1.2, True, 0.7), ("b", 0.5, False, 0.9))
    rows = tuple(
        {"policy": name, "temperature": t, "matched": matched, "valid": valid, "valid_low": 0.0, "length": 10.0}
        for name, t, matched, valid in points
    )
    [drawn] = table_charts(Table("lab", tuple(rows[0]), rows))
    assert drawn.title == "lab: valid"
    assert [(mark.label, mark.point) for mark in drawn.legend] == [
        ("a", False), ("b", False), ("at the reference's entropy", True),
    ]  # fmt: skip
    # A run's rows have the run's colour; others take what is left.
    [drawn] = table_charts(Table("lab", tuple(rows[0]), rows), runs=["b", "c"])
    assert {mark.label: mark.colour for mark in drawn.legend[:2]} == {"a": 2, "b": 0}
    assert "Diamonds" in drawn.caption


def test_buckets_are_drawn_with_their_intervals_and_names() -> None:
    rows = ({"bucket": "0-9", "win": 0.4, "low": 0.3, "high": 0.5}, {"bucket": "10-19", "win": 0.6, "low": 0.5, "high": 0.7})
    [drawn] = table_charts(Table("lengths", tuple(rows[0]), rows, run="dpo"))
    assert "10-19" in drawn.svg
    assert drawn.title == "lengths: win"


def test_what_the_evaluation_commands_write_is_a_table(tmp_path: Path) -> None:
    """Rows as mappings, the paper's with a source and columns of their own, and facts beside."""
    written = {
        "title": "AlpacaEval",
        "rows": [{"model": "dpo", "win rate": 20.0}],
        "paper": {"source": "arXiv 2601.22083", "rows": [{"model": "DPO", "win rate": 22.76, "LC": 27.79}]},
        "notes": [],
        "annotations": {"dpo": "sha"},
    }
    write(tmp_path, "alpaca.json", written)
    write(tmp_path, "empty.json", {**written, "paper": None})
    alpaca, empty = find(tmp_path, "evaluation", ("*.json",)).tables
    assert alpaca.columns == ("model", "win rate", "LC")
    assert alpaca.paper[0]["LC"] == 27.79
    assert empty.paper == ()


def test_what_a_sweep_writes_is_drawn_and_read_at_equal_entropy(tmp_path: Path) -> None:
    """The policy's match of the reference at 1.5 is no match of the reference at 1."""

    def sampled(policy: str, at: float, win: float, matched: bool = False, against: float | None = None) -> dict[str, Any]:
        wins = {"score": 2 * win, "win": win, "win low": win - 0.1, "win high": win + 0.1}
        return {"policy": policy, "T": at, "matched": matched, "against T": against or at, **wins}

    rows = [
        sampled("reference base", 1.0, 0.5), sampled("reference base", 1.5, 0.49), sampled("dpo", 1.0, 0.7),
        sampled("dpo", 1.2, 0.45, True, 1.0), sampled("dpo", 1.5, 0.8), sampled("dpo", 1.9, 0.55, True, 1.5),
        sampled("mse", 1.9, 0.6, True, 1.5), sampled("reference base colder, as sure as dpo at 1", 0.8, 0.6, False, 1.0),
    ]  # fmt: skip
    write(tmp_path, "evaluation/temperature.json", {"title": "sweep", "rows": rows})
    [table] = find(tmp_path, "dpo").tables
    assert [drawn.title for drawn in table_charts(table)] == ["sweep: score", "sweep: win"]
    assert all("the reference is at the temperature above which they stand" in drawn.caption for drawn in table_charts(table))
    dpo, mse = evaluated([table])
    assert dpo.text == "dpo: at the reference's token entropy (T = 1.20) win is 0.450; the reference's own is 0.500."
    assert mse.text == "mse: at the reference's token entropy at 1.5 (T = 1.90) win is 0.600; the reference's own is 0.490."


def test_a_prompt_of_messages_is_shown_as_text(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    write(tmp_path, "samples.json", [{"instruction": messages, "output": "x"}])
    assert list(find(tmp_path, "dpo").outputs[0].responses) == ["user: Hi\nassistant: Hello"]


def test_columns_of_unknown_names_are_drawn_where_there_are_no_others() -> None:
    rows = tuple({"temperature": t, "entropy": t / 2, "entropy_low": 0.0} for t in (0.5, 1.0))
    assert [drawn.title for drawn in table_charts(Table("sweep", tuple(rows[0]), rows, run="a"))] == ["sweep: entropy"]


@pytest.mark.parametrize("columns", [("policy", "win"), ("temperature",)])
def test_other_tables_are_not_drawn(columns: tuple[str, ...]) -> None:
    rows = ({column: 1.0 if column != "policy" else "dpo" for column in columns},)
    assert not table_charts(Table("other", columns, rows))
