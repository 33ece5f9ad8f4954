"""Reading what training leaves: whole, unfinished and broken folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ganpo_report.runs import Series, read_runs
from run_samples import MakeRun, lines

from ganpo_core import DataError


def test_late_is_the_mean_of_the_last_tenth() -> None:
    """Of 20 values 0 … 19 the last two are 18 and 19, the first two 0 and 1."""
    series = Series(tuple(range(20)), tuple(map(float, range(20))))
    assert (series.early, series.late, series.last) == (0.5, 18.5, 19.0)
    assert Series((1, 2), (3.0, 5.0)).late == 5.0


def test_training_and_held_out_lines_are_told_apart(make_run: MakeRun) -> None:
    run = make_run([*lines(2, loss=(0.7, 0.6)), {"step": 20, "eval_rewards/margins": 0.1}])
    assert run.series("loss").values == (0.7, 0.6)
    assert run.series("eval_rewards/margins").steps == (20,)
    assert not run.series("nothing")
    assert run.last_step == 20


def test_an_unfinished_last_line_is_left_out(make_run: MakeRun) -> None:
    run = make_run(lines(2, loss=0.7))
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss": 0.')
    assert read_runs([run.folder])[0].last_step == 20


def test_not_a_number_is_read(make_run: MakeRun) -> None:
    run = make_run([{"step": 10, "loss": float("nan")}])
    assert run.series("loss").values[0] != run.series("loss").values[0]


def test_runs_of_one_name_are_told_apart_by_their_parents(make_run: MakeRun) -> None:
    make_run(name="one/dpo")
    make_run(name="two/dpo")
    root = make_run(name="x").folder.parent
    assert [run.name for run in read_runs([root / "one" / "dpo", root / "two" / "dpo"])] == ["one/dpo", "two/dpo"]


def test_adversaries_are_found_by_their_penalty(make_run: MakeRun) -> None:
    run = make_run(lines(1, adversary__penalty=1.0, adversary__image__penalty=2.0))
    assert run.adversaries == ("adversary", "adversary/image")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "run.yaml").unlink(), "is not a run: it has no run.yaml"),
        (lambda folder: (folder / "metrics.jsonl").write_text("{]\n"), "metrics.jsonl, line 1: not JSON"),
        (lambda folder: (folder / "card.json").write_text("[1]"), "card.json: a mapping was expected, found a list"),
        (lambda folder: (folder / "metrics.jsonl").write_text('{"step": 1}\n{"loss": 1}\n'), "line 2: metrics with their step"),
        (lambda folder: (folder / "metrics.jsonl").write_bytes(b"\xff\x00\n"), "line 1: not JSON"),
        (lambda folder: (folder / "run.yaml").write_text("a: [1"), r"run\.yaml: not YAML: while parsing"),
        (lambda folder: (folder / "run.yaml").write_text(""), r"run\.yaml: a mapping was expected, found nothing"),
        (lambda folder: (folder / "card.json").write_text("{"), "card.json: not JSON"),
    ],
)
def test_a_broken_folder_is_named(make_run: MakeRun, break_it: Any, message: str) -> None:
    folder = make_run().folder
    break_it(folder)
    with pytest.raises(DataError, match=message):
        read_runs([folder])


def test_a_run_given_twice_is_refused(make_run: MakeRun) -> None:
    folder = make_run().folder
    with pytest.raises(DataError, match="given twice"):
        read_runs([folder, folder / ".." / folder.name])


def test_a_folder_without_metrics_or_card_is_still_a_run(make_run: MakeRun) -> None:
    folder: Path = make_run(name="old").folder
    (folder / "metrics.jsonl").unlink()
    (folder / "plugins.json").write_text(json.dumps({"python": "3.11.7"}))
    run = read_runs([folder])[0]
    assert (run.training, run.card, run.versions) == ((), {}, {"python": "3.11.7"})
