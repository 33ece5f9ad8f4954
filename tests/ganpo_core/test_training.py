"""Whole runs: what they leave behind, and that they can be killed and continued bit for bit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import ganpo_core
from ganpo_core.errors import CheckpointError
from ganpo_core.folders import find_flaw

MakeRun = Callable[..., dict[str, Any]]

GAME: dict[str, Any] = {
    "latents": {"use": "hidden_state"},
    "divergence": {"use": "ragan"},
    "discriminator": {"use": "transformer", "hidden_dim": 8, "num_heads": 2, "num_layers": 1, "max_positions": 32},
    "adversary": {"preset": "paper"},
}


def training(**options: Any) -> dict[str, Any]:
    return {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 4, "logging_steps": 3, **options}


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of everything a finished run exports."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("policy", "adversary")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def written(folder: Path) -> list[Path]:
    """Every file of a run but its lock, which each run signs."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_run_leaves_what_is_needed_to_use_and_repeat_it(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_file = tiny_run(**GAME, training=training(save_steps=4, eval_steps=4))
    run_file["data"] = {"path": str(tiny_pairs), "eval_path": str(tiny_pairs)}
    folder = ganpo_core.train(run_file)
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
    AutoTokenizer.from_pretrained(folder / "policy")
    saved = load_file(folder / "checkpoints" / "step-00000008" / "policy.safetensors")
    assert all(torch.equal(weight.detach(), saved[name]) for name, weight in policy.named_parameters())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "eval_rewards/margins" in line) for line in lines] == [
        (3, False), (4, True), (6, False), (8, False), (8, True),
    ]
    assert {"loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
            "logps/rejected", "lengths/chosen", "shifts/rejected", "grad_norm", "learning_rate", "epoch",
            "adversary/penalty"} <= lines[0].keys()
    assert json.loads((folder / "plugins.json").read_text())["plugins"]["ganpo_objectives"]["distribution"] == "ganpo"
    again = yaml.safe_load((folder / "run.yaml").read_text())
    again["output_dir"] = str(tmp_path / "again")
    assert weights(ganpo_core.train(again)) == weights(folder)
    assert {path.name for path in (folder / "adversary").iterdir()} == {
        "adversary.json", "chosen.safetensors", "manifest.json", "means.safetensors", "rejected.safetensors",
    }


def test_an_output_folder_with_a_run_is_refused(tiny_run: MakeRun) -> None:
    ganpo_core.train(tiny_run())
    with pytest.raises(CheckpointError, match=r"holds a run already .*--resume"):
        ganpo_core.train(tiny_run())


def test_resume_without_a_checkpoint_starts_from_the_beginning(
    tiny_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    ganpo_core.train(tiny_run(), resume=True)
    assert "no checkpoint yet: starting from the beginning" in capsys.readouterr().err


def test_resuming_a_finished_run_changes_nothing(tiny_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ganpo_core.train(tiny_run(**GAME))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in written(folder)}
    capsys.readouterr()
    ganpo_core.train(tiny_run(**GAME), resume=True)
    assert "finished after 3 steps; nothing to do" in capsys.readouterr().err
    after = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in written(folder)}
    assert before == after


def test_a_changed_setting_is_named_when_resuming(tiny_run: MakeRun) -> None:
    ganpo_core.train(tiny_run(training=training(save_steps=4)))
    changed = tiny_run(training=training(save_steps=4, learning_rate=2e-3), objective={"use": "dpo", "beta": 0.3})
    with pytest.raises(CheckpointError, match=r"objective\.beta: was 0\.1, is 0\.3; .*training\.learning_rate"):
        ganpo_core.train(changed, resume=True)


def test_a_damaged_checkpoint_is_passed_over(tiny_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = weights(ganpo_core.train(tiny_run(**GAME, training=training(), output_dir=str(tmp_path / "whole"))))
    run_file = tiny_run(**GAME, training=training(save_steps=3, save_total_limit=None))
    folder = ganpo_core.train(run_file)
    newest = folder / "checkpoints" / "step-00000008"
    damaged = bytearray((newest / "adversary.safetensors").read_bytes())
    damaged[-7] ^= 1
    (newest / "adversary.safetensors").write_bytes(bytes(damaged))
    assert find_flaw(newest) == "adversary.safetensors is damaged"
    for part in ("policy", "adversary"):
        for path in (folder / part).iterdir():
            path.unlink()
        (folder / part).rmdir()
    ganpo_core.train(run_file, resume=True)
    assert "checkpoint step-00000008 is not used: adversary.safetensors is damaged" in capsys.readouterr().err
    assert weights(folder) == whole


def test_observers_see_every_step_and_a_failing_one_is_named(tiny_run: MakeRun, tmp_path: Path) -> None:
    observer = tmp_path / "observer.py"
    observer.write_text(
        "from ganpo_core import hookimpl\n"
        "seen = []\n"
        "@hookimpl\n"
        "def ganpo_step_finished(report):\n"
        "    seen.append((report.step, report.max_steps, 'loss' in report.metrics))\n"
        "    if report.step == 5:\n"
        "        raise RuntimeError('enough')\n"
    )
    run_file = tiny_run(plugins=[str(observer)], training=training())
    with pytest.raises(ganpo_core.PluginError, match=r"plugin 'observer .*ganpo_step_finished raised .*enough"):
        ganpo_core.train(run_file)
    (module,) = (module for name, module in sys.modules.items() if "observer" in name and hasattr(module, "seen"))
    assert module.seen == [(1, 8, False), (2, 8, False), (3, 8, True), (4, 8, False), (5, 8, False)]


def test_trackers_are_told(tiny_run: MakeRun) -> None:
    folder = ganpo_core.train(tiny_run(training=training(report_to=["tensorboard"])))
    assert list(folder.rglob("events.out.tfevents*"))
