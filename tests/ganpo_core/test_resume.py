"""What a resumed run takes over, what it refuses by name, and what it may be allowed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import SMALL_GAME
from safetensors.torch import load_file
from typer.testing import CliRunner

import ganpo_core
import ganpo_core.assemble
import ganpo_core.training
from ganpo_core.checkpoint import save_tensors
from ganpo_core.cli.main import make_app
from ganpo_core.errors import CheckpointError, ConfigError
from ganpo_core.folders import find_flaw, write_folder
from ganpo_core.models import load_models
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]

QUEUE: dict[str, Any] = {"latents": {"use": "hidden_state"}, "divergence": {"use": "mmd", "queue": 6}}
TRAINING = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 2}


def undo(folder: Path, *steps: int) -> None:
    """Take a finished run back to before the given checkpoints."""
    for part in ("policy", "adversary", *(f"checkpoints/step-{step:08d}" for step in steps)):
        shutil.rmtree(folder / part, ignore_errors=True)


@pytest.fixture
def half(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> dict[str, Any]:
    """A run file whose run stands after step 2 of 4, on rows of its own."""
    shutil.copy(tiny_pairs, tmp_path / "pairs.jsonl")
    run_file = tiny_run(**SMALL_GAME, training=dict(TRAINING), data={"path": str(tmp_path / "pairs.jsonl")})
    undo(ganpo_core.train(run_file), 4)
    return run_file


def test_a_changed_row_is_named(half: dict[str, Any]) -> None:
    path = Path(half["data"]["path"])
    lines = path.read_text().splitlines()
    lines[16] = json.dumps({"prompt": "<bos> w1", "chosen": " w2 w3", "rejected": " w4"})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CheckpointError, match=r"Changed: data: pairs\.jsonl: tokens changed in row 17\. .*--allow KEY"):
        ganpo_core.train(half, resume=True)
    path.write_text("\n".join(lines[:30]) + "\n")
    with pytest.raises(CheckpointError, match=r"gave 48 pairs and gives 30, pairs\.jsonl: tokens changed in row 17"):
        ganpo_core.train(half, resume=True)


def test_a_changed_preference_is_named(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> None:
    rows = [{**json.loads(line), "preference": 0.75} for line in tiny_pairs.read_text().splitlines()]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_file = tiny_run(training={**TRAINING, "max_steps": 2}, data={"path": str(path)})
    (ganpo_core.train(run_file) / "policy" / "manifest.json").unlink()
    rows[4]["preference"], rows[9]["preference"] = 0.5, 1.0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CheckpointError, match=r"Changed: data: pairs\.jsonl: preferences changed in row 5, 10\. "):
        ganpo_core.train(run_file, resume=True)


def test_what_is_allowed_is_said_and_what_is_not_is_refused(half: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    half["training"] |= {"learning_rate": 2e-3, "logging_steps": 1}
    half["objective"]["beta"] = 0.3
    with pytest.raises(CheckpointError, match=r"Changed: training\.learning_rate: was 0\.001, is 0\.002\. "):
        ganpo_core.train(half, resume=True, allow=["objective"])
    folder = ganpo_core.train(half, resume=True, allow=["objective.beta", "training.learning_rate"])
    said = capsys.readouterr().err
    assert "allowed to change: objective.beta: was 0.1, is 0.3" in said
    assert "resuming after step 2" in said
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # A warm-up of none of the four steps, then a cosine.
    rates = [1e-3 * (1 + math.cos(math.pi * step / 4)) for step in (2, 3)]
    assert [line["learning_rate"] for line in lines if line["step"] > 2] == pytest.approx(rates)
    # The next checkpoint is that of the changed run, so the same command needs no more permission.
    undo(folder, 4)
    with pytest.raises(CheckpointError, match=r"objective\.beta"):
        ganpo_core.train(half, resume=True)


def test_permission_for_what_no_run_has_is_refused(half: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"--allow: 'objective\.betta' is no key of a run\. Did you mean 'objective\.beta'\?"):
        ganpo_core.train(half, resume=True, allow=["objective.betta"])


@pytest.mark.parametrize("key", ["plugins.ganpo_objectives", "packages.torch", "reference"])
def test_other_versions_and_another_reference_are_named(key: str, half: dict[str, Any]) -> None:
    folder = Path(half["output_dir"]) / "checkpoints" / "step-00000002"
    state = json.loads((folder / "state.json").read_text())
    part, _, name = key.partition(".")
    if name:
        state["identity"][part][name] = "0.0.1"
    else:
        state["identity"][part] = "0" * 64
    resign(folder, state)
    with pytest.raises(CheckpointError, match=rf"Changed: {key}: was '0"):
        ganpo_core.train(half, resume=True)
    ganpo_core.train(half, resume=True, allow=[key])


def resign(folder: Path, state: dict[str, Any]) -> None:
    """Replace state.json, and the manifest with it."""
    replace(folder, "state.json", lambda path: path.write_text(json.dumps(state)))


def replace(folder: Path, name: str, make: Callable[[Path], object]) -> None:
    """Make a file of a checkpoint again, and the manifest with it."""
    kept = folder.with_name("kept")
    folder.rename(kept)

    def write(aside: Path) -> None:
        for path in kept.iterdir():
            if path.name not in ("manifest.json", name):
                shutil.copy(path, aside)
        make(aside / name)

    write_folder(folder, write, 1)
    shutil.rmtree(kept)
    assert find_flaw(folder) is None


def test_another_number_of_processes_continues_at_the_same_pair(
    half: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of 2 processes x 4 pairs after 2 steps: 16 pairs are seen, and the next is the 17th."""
    folder = Path(half["output_dir"]) / "checkpoints" / "step-00000002"
    state = json.loads((folder / "state.json").read_text())
    state |= {"num_processes": 2, "pairs_seen": 16}
    state["randomness"] *= 2
    state["metrics"] *= 2
    resign(folder, state)
    # What two processes may have needed to be changed for, one may change back.
    half["training"] |= {"gradient_accumulation_steps": 2, "logging_steps": 1}
    done = ganpo_core.train(half, resume=True)
    assert "on 1 processes what ran on 2: the same pairs in the same order, but not bitwise" in capsys.readouterr().err
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["epoch"]) for line in lines] == [(3, 24 / 48), (4, 32 / 48)]


def test_an_evaluation_that_a_kill_cut_off_is_repeated(tiny_run: MakeRun, tiny_pairs: Path) -> None:
    data = {"path": str(tiny_pairs), "eval_path": str(tiny_pairs)}
    run_file = tiny_run(training={**TRAINING, "eval_steps": 2, "logging_steps": 2}, data=data)
    folder = ganpo_core.train(run_file)
    lines = (folder / "metrics.jsonl").read_text()
    undo(folder, 4)
    # Killed after the save of step 2: its evaluation is missing, and the next line is cut.
    kept = lines.splitlines()[0]
    (folder / "metrics.jsonl").write_text(f'{kept}\n{{"step": 3, "lo')
    ganpo_core.train(run_file, resume=True)
    assert (folder / "metrics.jsonl").read_text() == lines


def test_checkpoints_are_listed_verified_and_one_is_chosen(half: dict[str, Any]) -> None:
    folder = Path(half["output_dir"])
    shutil.copytree(folder / "checkpoints" / "step-00000002", folder / "checkpoints" / "step-00000009")
    (folder / "checkpoints" / "step-00000009" / "policy.safetensors").write_bytes(b"")
    app = make_app()
    done = CliRunner().invoke(app, ["checkpoints", str(folder)])
    assert done.exit_code == 0
    first, second = done.output.splitlines()
    assert first.startswith("step-00000009")
    assert first.endswith("not used: policy.safetensors is damaged")
    assert second.endswith("verified, resumed from next")
    rows = json.loads(CliRunner().invoke(app, ["checkpoints", str(folder), "--json"]).output)
    assert [(row["step"], row["chosen"]) for row in rows] == [(9, False), (2, True)]
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    refused = CliRunner().invoke(app, ["checkpoints", str(folder)])
    assert isinstance(refused.exception, CheckpointError)
    assert "no checkpoint to resume from" in str(refused.exception)


def test_a_weight_that_never_had_a_gradient_has_no_moments(
    tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As what sees has none before the first image: AdamW keeps nothing of it, and the run is resumed bit for bit."""

    def load(*arguments: Any) -> Any:
        models = load_models(*arguments)
        models.policy.register_parameter("unused", torch.nn.Parameter(torch.arange(3.0)))
        return models

    monkeypatch.setattr(ganpo_core.assemble, "load_models", load)
    run_file = tiny_run(**SMALL_GAME, training=dict(TRAINING))
    folder = ganpo_core.train(run_file)
    last = folder / "checkpoints" / "step-00000004"
    whole = {path.name: path.read_bytes() for path in last.iterdir()}
    held = load_file(last / "optimizer.safetensors")
    assert "lm_head.weight.exp_avg" in held
    assert not [name for name in held if name.startswith("unused")]
    undo(folder, 4)
    ganpo_core.train(run_file, resume=True)
    assert "resuming after step 2" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in last.iterdir()} == whole


def test_moments_of_a_weight_that_is_not_trained_are_refused(
    half: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(half["output_dir"]) / "checkpoints" / "step-00000002"
    held = load_file(folder / "optimizer.safetensors")
    replace(folder, "optimizer.safetensors", lambda path: save_tensors({**held, "nobody.step": torch.ones(())}, path))
    ganpo_core.train(half, resume=True)
    assert "holds the moments of nobody, which is no weight that is trained" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_says_that_it_starts_again(
    half: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(half["output_dir"]) / "checkpoints"
    shutil.copytree(root / "step-00000002", root / "step-00000003")
    for folder in root.iterdir():
        (folder / "policy.safetensors").write_bytes(b"cut")
    ganpo_core.train(half, resume=True)
    said = capsys.readouterr().err
    assert "no checkpoint yet" not in said
    assert said.count("is not used: policy.safetensors is damaged") == 2
    assert "2 checkpoints passed over, for the reasons above, and none is left: starting from the beginning" in said
    assert "metrics.jsonl starts anew too" in said


@pytest.mark.parametrize(("size", "more_steps", "pairs"), [(2, 2, 48), (1, 4, 48), (3, 2, 56)])
def test_an_epoch_ends_with_the_data_whatever_a_step_holds_later(
    size: int,
    more_steps: int,
    pairs: int,
    tiny_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """48 pairs, 8 a step until step 4; 4 * `size` from then on; the last step borrows what the epoch lacks."""
    seen: list[tuple[str, int]] = []
    critics_rates: list[float] = []

    def step(run: Any, window: Any, *arguments: Any) -> int:
        seen.extend(place for batch in window for place in batch.pair_ids)
        stop = train_step(run, window, *arguments)
        critics_rates.append(run.regularizers[0].critics.optimizer.param_groups[0]["lr"])
        return stop

    monkeypatch.setattr(ganpo_core.training, "train_step", step)
    critics = {"learning_rate": 1e-3, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "weight_warmup_ratio": 1.0}
    training = {
        "learning_rate": 1e-3, "num_train_epochs": 1.0, "lr_scheduler_type": "linear", "warmup_ratio": 0.0,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "save_steps": 1, "logging_steps": 1,
        "save_total_limit": None,
    }
    run_file = tiny_run(**SMALL_GAME, adversary={"weight": 1.0, **critics}, training=training)
    folder = ganpo_core.train(run_file)
    assert sorted(seen) == sorted({*seen})
    assert len(seen) == 48
    undo(folder, 5, 6)
    del seen[32:], critics_rates[4:]

    training["gradient_accumulation_steps"] = size
    allow = [] if size == 2 else ["training.gradient_accumulation_steps"]
    capsys.readouterr()
    ganpo_core.train(run_file, resume=True, allow=allow)
    said = capsys.readouterr().err
    assert ("a step held 8 pairs and holds" in said) == (size != 2)
    last = 4 + more_steps
    assert (f"max_steps was 6 and is {last}" in said) == (last != 6)
    assert len(seen) == pairs
    assert sorted(seen[:48]) == sorted({*seen})  # the next epoch's are pairs of this one

    # Linear schedules without warm-up are the share of the data that is left, the adversary's weight the share before.
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, last + 1))
    shares = [(8 * step if step <= 4 else 32 + 4 * size * (step - 4)) / 48 for step in range(last + 1)]
    assert [line["epoch"] for line in lines] == pytest.approx(shares[1:])
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3 * (1 - share) for share in shares[:-1]])
    assert [line["adversary/weight"] for line in lines] == pytest.approx([min(1.0, share) for share in shares[:-1]])
    assert critics_rates == pytest.approx([1e-3 * (1 - share) for share in shares[:-1]])

    # The changed run is a run of its own: resumed once more it needs no permission, and is the same bit for bit.
    whole = {path.name: path.read_bytes() for path in (folder / "checkpoints" / f"step-{last:08d}").iterdir()}
    undo(folder, last)
    ganpo_core.train(run_file, resume=True)
    assert f"resuming after step {last - 1}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints" / f"step-{last:08d}").iterdir()} == whole


def test_checkpoints_that_compare_the_number_of_steps_are_read(half: dict[str, Any]) -> None:
    """As they were written before it was found to follow from what else is compared."""
    folder = Path(half["output_dir"]) / "checkpoints" / "step-00000002"
    state = json.loads((folder / "state.json").read_text())
    state["identity"]["max_steps"] = state.pop("max_steps")
    resign(folder, state)
    half["training"]["max_steps"] = 3
    with pytest.raises(CheckpointError, match=r"Changed: training\.max_steps: was 4, is 3\. Undo"):
        ganpo_core.train(half, resume=True)
    assert (ganpo_core.train(half, resume=True, allow=["training.max_steps"]) / "checkpoints" / "step-00000003").is_dir()


def test_a_fixed_number_of_steps_stays_whatever_a_step_holds_later(half: dict[str, Any]) -> None:
    """`max_steps` counts steps, and so do its schedules: half of a cosine is behind step 2 of 4 all the same."""
    half["training"] |= {"gradient_accumulation_steps": 2, "logging_steps": 1, "warmup_ratio": 0.0}
    keys = ["training.gradient_accumulation_steps", "training.warmup_ratio"]
    folder = ganpo_core.train(half, resume=True, allow=keys)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["learning_rate"] for line in lines}
    assert rates == pytest.approx({3: 1e-3 / 2, 4: 1e-3 * (1 + math.cos(math.pi * 3 / 4)) / 2}, abs=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("sections", [QUEUE, SMALL_GAME], ids=["queue", "critics"])
def test_a_run_is_resumed_on_a_gpu(sections: dict[str, Any], tiny_run: MakeRun) -> None:
    """With the default optimizer, which is fused. The steps after are equal but for the order of the GPU's sums: a moment
    that were lost would show at the size of the learning rate, 1e-3."""
    run_file = tiny_run(**sections, adversary={"weight_mode": "grad_ratio", "grad_ratio": 0.1}, training=dict(TRAINING))
    folder = ganpo_core.train(run_file)
    whole = load_file(folder / "policy" / "model.safetensors")
    undo(folder, 4)
    ganpo_core.train(run_file, resume=True)
    torch.testing.assert_close(load_file(folder / "policy" / "model.safetensors"), whole, rtol=0, atol=2e-5)
