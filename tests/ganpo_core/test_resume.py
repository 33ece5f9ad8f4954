"""What a resumed run takes over, what it refuses by name, and what it may be allowed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import ganpo_core
from ganpo_core.checkpoint import save_tensors
from ganpo_core.cli.main import make_app
from ganpo_core.errors import CheckpointError, ConfigError
from ganpo_core.folders import find_flaw, write_folder

MakeRun = Callable[..., dict[str, Any]]

GAME: dict[str, Any] = {
    "latents": {"use": "hidden_state"},
    "divergence": {"use": "ragan"},
    "discriminator": {"use": "mlp", "hidden_dim": 8},
}
TRAINING = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 2}


def undo(folder: Path, *steps: int) -> None:
    """Take a finished run back to before the given checkpoints."""
    for part in ("policy", "adversary", *(f"checkpoints/step-{step:08d}" for step in steps)):
        shutil.rmtree(folder / part, ignore_errors=True)


@pytest.fixture
def half(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> dict[str, Any]:
    """A run file whose run stands after step 2 of 4, on rows of its own."""
    shutil.copy(tiny_pairs, tmp_path / "pairs.jsonl")
    run_file = tiny_run(**GAME, training=dict(TRAINING), data={"path": str(tmp_path / "pairs.jsonl")})
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
    half["training"]["learning_rate"] = 2e-3
    half["objective"]["beta"] = 0.3
    with pytest.raises(CheckpointError, match=r"Changed: training\.learning_rate: was 0\.001, is 0\.002\. "):
        ganpo_core.train(half, resume=True, allow=["objective"])
    folder = ganpo_core.train(half, resume=True, allow=["objective.beta", "training.learning_rate"])
    said = capsys.readouterr().err
    assert "allowed to change: objective.beta: was 0.1, is 0.3" in said
    assert "resuming after step 2" in said
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
    kept = folder.with_name("kept")
    folder.rename(kept)

    def write(aside: Path) -> None:
        for path in kept.iterdir():
            if path.name not in ("manifest.json", "state.json"):
                shutil.copy(path, aside)
        (aside / "state.json").write_text(json.dumps(state))

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


def test_the_export_is_made_again_where_a_part_of_it_is_missing_or_damaged(tiny_run: MakeRun) -> None:
    """Killed between two exported folders, or later damaged: the same command makes both whole."""
    run_file = tiny_run(**GAME, training=dict(TRAINING))
    folder = ganpo_core.train(run_file)
    whole = {path: path.read_bytes() for part in ("policy", "adversary") for path in (folder / part).iterdir()}
    shutil.rmtree(folder / "adversary")
    (folder / "policy" / "model.safetensors").write_bytes(b"cut")
    ganpo_core.train(run_file, resume=True)
    assert {path: path.read_bytes() for path in whole} == whole
    shutil.rmtree(folder / "policy")
    (folder / "policy").mkdir()
    (folder / "policy" / "manifest.json").write_text("{}")  # every file that it lists is as it says
    ganpo_core.train(run_file, resume=True)
    assert {path: path.read_bytes() for path in whole} == whole


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


def test_weights_that_are_not_finite_are_never_saved(tiny_run: MakeRun, tmp_path: Path) -> None:
    plugin = tmp_path / "spoil.py"
    plugin.write_text(
        "import gc, torch\n"
        "from ganpo_core import hookimpl\n"
        "@hookimpl\n"
        "def ganpo_step_finished(report):\n"
        "    for found in gc.get_objects():\n"
        "        if type(found).__name__ == 'Run' and hasattr(found, 'models') and report.step == 4:\n"
        "            with torch.no_grad():\n"
        "                found.models.policy.lm_head.weight[0, 0] = torch.inf\n"
    )
    run_file = tiny_run(training=dict(TRAINING), plugins=[str(plugin)])
    with pytest.raises(ganpo_core.TrainingError, match=r"not finite: lm_head\.weight; nothing was trained or saved with them"):
        ganpo_core.train(run_file)
    saved = sorted((tmp_path / "out" / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-00000002"]
    assert torch.isfinite(load_file(saved[0] / "policy.safetensors")["lm_head.weight"]).all()


def test_python_and_numpy_start_from_the_seed_too(tiny_run: MakeRun, tmp_path: Path) -> None:
    runs = [ganpo_core.train(tiny_run(seed=3, output_dir=str(tmp_path / name))) for name in ("one", "two")]
    states = [json.loads((run / "checkpoints" / "step-00000003" / "state.json").read_text()) for run in runs]
    assert states[0]["randomness"] == states[1]["randomness"]


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


def test_tensors_are_written_as_they_are_however_they_lie_in_memory(tmp_path: Path) -> None:
    """Parts of others, turned around, given twice or empty; whole ones are not copied for it."""
    table = torch.arange(12.0).reshape(3, 4)
    given = {"whole": table, "again": table, "row": table[1], "turned": table.T}
    given |= {"empty": torch.zeros(0, 4), "one": torch.tensor(7)}
    save_tensors(given, tmp_path / "tensors.safetensors")
    found = load_file(tmp_path / "tensors.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == {name: value.tolist() for name, value in given.items()}
    assert found["turned"].shape == (4, 3)
