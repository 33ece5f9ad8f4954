"""`ganpo diff`: what counts as a difference, where metrics part, and the exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ganpo_report.differences import ABSENT, compare
from ganpo_report.runs import read_runs
from run_samples import MakeRun

from ganpo_core.cli.main import main


def line(step: int, **values: float) -> dict[str, float]:
    return {"step": step, **values}


def test_two_runs_of_one_file_are_the_same(make_run: MakeRun) -> None:
    found = compare(make_run(name="a"), make_run(name="b", settings={"output_dir": "/elsewhere"}, card={"started": "later"}))
    assert found.identical
    assert found.as_json()["first_difference"] is None


def test_settings_versions_and_hashes_are_compared(make_run: MakeRun) -> None:
    changed = {"objective.beta": 0.3, "latents.use": "pooled"}
    card = {"model": {"path": "m", "commit": None, "files": {"model.safetensors": "0" * 64}}, "processes": 2}
    one, other = make_run(name="a"), make_run(name="b", settings=changed, card=card)
    (other.folder / "plugins.json").write_text(json.dumps({"packages": {"torch": "2.14.0"}}))
    found = compare(one, read_runs([other.folder])[0])
    assert {each.key: (each.first, each.second) for each in found.settings} == {
        "objective.beta": ("0.1", "0.3"),
        "latents.use": (ABSENT, "pooled"),
    }
    assert {each.key: each.second for each in found.versions}["torch"] == "2.14.0"
    assert {each.key for each in found.hashes} == {"model model.safetensors", "processes"}
    assert not found.identical


def test_the_trained_weights_are_compared_by_their_manifest(make_run: MakeRun) -> None:
    def manifest(digit: str) -> dict[str, str]:
        return {"policy/manifest.json": json.dumps({"model.safetensors": [10, digit * 64], "config.json": [1, "f" * 64]})}

    found = compare(make_run(name="a", files=manifest("1")), make_run(name="b", files=manifest("2")))
    [each] = found.hashes
    assert (each.key, each.first, each.second) == ("trained policy", "1" * 12, "2" * 12)


def test_metrics_part_at_the_first_step_that_differs(make_run: MakeRun) -> None:
    """Equal at 10; at 20 the loss differs by 0.25 of 0.5; the last lines are those of step 30."""
    one = make_run([line(10, loss=0.7, margin=0.0), line(20, loss=0.5, margin=0.1), line(30, loss=0.4, margin=0.2)], "a")
    other = make_run([line(10, loss=0.7, margin=0.0), line(20, loss=0.75, margin=0.1), line(30, loss=0.3, margin=0.2)], "b")
    found = compare(one, other)
    assert found.parting is not None
    assert found.parting.step == 20
    assert [(each.key, each.gap) for each in found.parting.metrics] == [("loss", 0.25)]
    assert [(each.key, each.first, each.second) for each in found.metrics] == [("loss", 0.4, 0.3)]


def test_a_tolerance_is_relative(make_run: MakeRun) -> None:
    one, other = make_run([line(10, loss=1.0)], "a"), make_run([line(10, loss=1.01)], "b")
    assert compare(one, other, tolerance=0.02).identical
    assert not compare(one, other, tolerance=0.005).identical


def test_a_metric_or_a_step_of_one_run_alone_is_a_difference(make_run: MakeRun) -> None:
    one = make_run([line(10, loss=1.0), line(20, loss=0.9)], "a")
    other = make_run([line(10, loss=1.0, extra=2.0)], "b")
    found = compare(one, other)
    assert found.parting is not None
    assert [(each.key, each.first, each.gap) for each in found.parting.metrics] == [("extra", ABSENT, None)]
    assert {each.key for each in found.metrics} == {"step", "loss", "extra"}


def test_two_values_that_are_no_numbers_are_the_same(make_run: MakeRun) -> None:
    lines = [line(10, loss=float("nan"))]
    assert compare(make_run(lines, "a"), make_run(lines, "b")).identical


@pytest.mark.parametrize(("settings", "status"), [({}, 0), ({"objective.beta": 0.3}, 1), (None, 2)])
def test_the_command_exits_as_diff_does(
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any] | None,
    status: int,
) -> None:
    one = make_run(name="a").folder
    other = tmp_path / "nothing" if settings is None else make_run(name="b", settings=settings).folder
    written = tmp_path / "out" / "diff.json"
    monkeypatch.setattr(sys, "argv", ["ganpo", "diff", str(one), str(other), "--json", str(written)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code or 0) == status
    captured = capsys.readouterr()
    if status == 2:
        assert captured.err.startswith(f"error: {other} is not a run")
        assert not written.exists()
        return
    assert json.loads(written.read_text())["identical"] == (status == 0)
    if status == 1:
        assert "objective.beta" in captured.out and "0.3" in captured.out
    else:
        assert captured.out.startswith("the same:")


def test_what_is_not_finite_and_what_looks_like_markup(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of JSON without nan; a setting of many digits in full, where six of them are the same; brackets as they are."""
    one = make_run([line(10, loss=0.7)], "[red]a", {"training.learning_rate": 0.1})
    other = make_run([line(10, loss=float("nan"))], "[bold]b", {"training.learning_rate": 0.1000000001})
    written = tmp_path / "difference.json"
    monkeypatch.setattr(sys, "argv", ["ganpo", "diff", str(one.folder), str(other.folder), "--json", str(written)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1

    def refused(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(written.read_text(), parse_constant=refused)
    assert [each["values"] for each in found["settings"]] == [["0.1", "0.1000000001"]]
    assert found["metrics"][0]["values"] == [0.7, None]
    printed = capsys.readouterr().out
    assert "[red]a" in printed
    assert "[bold]b" in printed
