"""What is written of a run, and what never is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import SMALL_GAME
from safetensors.torch import load_file

import ganpo_core
from ganpo_core.checkpoint import save_tensors

MakeRun = Callable[..., dict[str, Any]]

TRAINING = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 4, "save_steps": 2}


def test_the_export_is_made_again_where_a_part_of_it_is_missing_or_damaged(tiny_run: MakeRun) -> None:
    """Killed between two exported folders, or later damaged: the same command makes both whole."""
    run_file = tiny_run(**SMALL_GAME, training=dict(TRAINING))
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


def test_tensors_are_written_as_they_are_however_they_lie_in_memory(tmp_path: Path) -> None:
    """Parts of others, turned around, given twice or empty; whole ones are not copied for it."""
    table = torch.arange(12.0).reshape(3, 4)
    given = {"whole": table, "again": table, "row": table[1], "turned": table.T}
    given |= {"empty": torch.zeros(0, 4), "one": torch.tensor(7)}
    save_tensors(given, tmp_path / "tensors.safetensors")
    found = load_file(tmp_path / "tensors.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == {name: value.tolist() for name, value in given.items()}
    assert found["turned"].shape == (4, 3)
