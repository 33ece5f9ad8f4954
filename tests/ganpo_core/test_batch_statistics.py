"""What one pair must know of the others: exact over a step however it is split, or said not to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import ganpo_core
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.errors import DataError
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]


def train(run_file: dict[str, Any], tmp_path: Path, size: int, accumulation: int) -> list[dict[str, float]]:
    run_file["model"] = {**run_file["model"], "dtype": "float64"}
    run_file["training"] = {
        "learning_rate": 0.1, "max_steps": 4, "logging_steps": 1, "save_steps": None, "lr_scheduler_type": "constant",
        "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation,
    }
    run_file["output_dir"] = str(tmp_path / f"{size}x{accumulation}")
    lines = (ganpo_core.train(run_file) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator())


@pytest.mark.parametrize(
    "objective",
    [
        {"use": "kto", "beta": 0.5},
        {"use": "bco", "beta": 0.5},
        {"use": "sft"},
        {"use": "rpo", "sft_norm": "token_mean", "eta": 1.0},
        {"use": "weighted"},
        {"use": "tdpo2"},
    ],
    ids=lambda options: options["use"],
)
def test_splitting_a_step_does_not_change_it(objective: dict[str, Any], tiny_run: MakeRun, tmp_path: Path) -> None:
    whole = train(tiny_run(objective=objective), tmp_path, size=6, accumulation=1)
    split = train(tiny_run(objective=objective), tmp_path, size=2, accumulation=3)
    for left, right in zip(whole, split, strict=True):
        assert left["loss"] == pytest.approx(right["loss"], rel=1e-9)


@pytest.mark.parametrize("use", ["aot", "aot_unpaired"])
def test_a_sort_over_the_micro_batch_is_changed_by_splitting_and_says_so(
    use: str, tiny_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tiny_run(objective={"use": use, "beta": 1.0}), tmp_path, size=6, accumulation=1)
    assert "compares the pairs of a micro-batch" not in capsys.readouterr().err
    split = train(tiny_run(objective={"use": use, "beta": 1.0}), tmp_path, size=2, accumulation=3)
    said = capsys.readouterr().err
    assert said.count("compares the pairs of a micro-batch with each other, so gradient_accumulation_steps changes it") == 1
    assert abs(whole[-1]["loss"] - split[-1]["loss"]) > 1e-6


def test_mismatched_rows_are_prompts_with_the_next_pairs_responses(tiny_run: MakeRun) -> None:
    run = made(tiny_run(objective={"use": "kto"}))
    own, other = run.window(1)[0], run.mismatched_window(1)[0]
    following = run.window(2)[0]
    for row in range(4):
        assert other.input_ids[row][other.tokens.prompt[row]].tolist() == own.input_ids[row][own.tokens.prompt[row]].tolist()
        source, at = (own, row + 1) if row < 3 else (following, 0)
        for shift in (0, 4):
            response = other.input_ids[row + shift][other.tokens.response[row + shift]].tolist()
            whole = source.input_ids[at + shift][source.tokens.response[at + shift]].tolist()
            assert response == whole[: len(response)]


def test_baseline_is_the_mean_over_mismatched_responses(tiny_run: MakeRun) -> None:
    from ganpo_core.step import mismatched_passes

    run = made(tiny_run(objective={"use": "kto"}))
    with torch.no_grad():
        for weight in run.models.policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    known = run.statistics.begin_step(run.window(0), mismatched_passes(run, 0), run.sum_over_processes)
    (batch, policy, reference), *_ = mismatched_passes(run, 0)
    assert reference is not None and batch.num_pairs == 4
    ratios = [policy.chosen.total - reference.chosen.total, policy.rejected.total - reference.rejected.total]
    assert known["mismatched"].item() == pytest.approx(torch.cat(ratios).mean().item(), rel=1e-6)
    assert known["mismatched"].item() != 0


def test_boundary_of_bco_follows_the_rewards_of_earlier_steps(tiny_run: MakeRun) -> None:
    """decay 0.5: after steps of mean reward 0 (the start) and m the running mean is m / 2."""
    run = made(tiny_run(objective={"use": "bco", "delta_decay": 0.5, "beta": 1.0}))
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    assert run.statistics.state() == {"desirable": pytest.approx(0, abs=1e-4), "undesirable": pytest.approx(0, abs=1e-4)}
    train_step(run, run.window(1), 1, metrics)
    metrics.clear()
    train_step(run, run.window(2), 2, metrics)
    state = run.statistics.state()
    run.statistics.load({"desirable": 7.0, "undesirable": -3.0})
    known = run.statistics.begin_step(run.window(3), [], run.sum_over_processes)
    assert {name: value.item() for name, value in known.items()} == {"desirable": 7.0, "undesirable": -3.0}
    assert state["desirable"] != 0


def test_running_means_are_resumed(tiny_run: MakeRun, tmp_path: Path) -> None:
    from ganpo_core.checkpoint import save_checkpoint
    from ganpo_core.output import OutputFolder
    from ganpo_core.resume import restore_checkpoint

    run_file = tiny_run(objective={"use": "bco", "beta": 1.0})
    run = made(run_file)
    metrics = MetricSums(run.models.device)
    for step in range(2):
        train_step(run, run.window(step), step, metrics)
    output = OutputFolder(run.config.output_dir, resume=True)
    save_checkpoint(run, output, 2, metrics)
    output.close()
    again = made(run_file)
    assert restore_checkpoint(again, MetricSums(again.models.device), print) == 2
    assert again.statistics.state() == run.statistics.state() != {"desirable": 0.0, "undesirable": 0.0}


def test_soft_preferences_must_be_in_the_data(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> None:
    soft = {"use": "sppo", "preference": "soft"}
    with pytest.raises(DataError, match="objective 'sppo' with these options needs the column `preference`"):
        made(tiny_run(objective=soft))
    rows = [json.loads(line) for line in tiny_pairs.read_text().splitlines()]
    path = tmp_path / "soft.jsonl"
    path.write_text("".join(json.dumps({**row, "preference": 0.75}) + "\n" for row in rows))
    run = made(tiny_run(objective=soft, data={"path": str(path)}))
    batch = run.window(0)[0]
    assert batch.preference is not None and batch.preference.tolist() == [0.75] * 4
    metrics = MetricSums(run.models.device)
    train_step(run, [batch], 0, metrics)
    # z = 0: 2 * ((p - 1/2) / beta)^2 = 2 * 250^2
    assert metrics.means(lambda table: table)["objective_loss"] == pytest.approx(125000, rel=1e-3)


def test_one_row_has_nothing_to_be_mismatched_with(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    path.write_text(tiny_pairs.read_text().splitlines(keepends=True)[0])
    with pytest.raises(DataError, match="give at least two rows"):
        made(tiny_run(objective={"use": "kto"}, data={"path": str(path)}))


def test_held_out_pairs_go_through_the_same_loss(tiny_run: MakeRun, tiny_pairs: Path) -> None:
    for use in ("kto", "bco", "aot", "sft", "tdpo1", "bmc"):
        run = made(tiny_run(objective={"use": use}, data={"path": str(tiny_pairs), "eval_path": str(tiny_pairs)}))
        from ganpo_core.evaluate import evaluate

        before = run.statistics.state()
        assert evaluate(run)["eval_objective_loss"] > 0
        assert run.statistics.state() == before
