"""A step that was stopped is kept, and runs again to the same end."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import ganpo_core
from ganpo_core import folders
from ganpo_core.cli.main import make_app
from ganpo_core.errors import CheckpointError, NotFiniteError
from ganpo_core.replay import replay
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]

SPOIL = """\
from dataclasses import dataclass, replace
from ganpo_core import Objective, component, hookimpl

@dataclass(frozen=True)
class Spoilt(Objective):
    def loss(self, policy, reference):
        found = component("objective", "dpo").loss(policy, reference)
        return replace(found, per_pair=found.per_pair.masked_fill(policy.chosen.mask.sum(1) > 18, float("nan")))

@hookimpl
def ganpo_objectives():
    return {"spoilt": Spoilt}
"""


@pytest.fixture
def stopped(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> Path:
    """The bundle of a run that row 20 stopped."""
    (tmp_path / "spoil.py").write_text(SPOIL)
    lines = tiny_pairs.read_text().splitlines()
    lines[19] = json.dumps({"prompt": "<bos> w1", "chosen": " w2" * 20, "rejected": " w4"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    run_file = tiny_run(
        objective={"use": "spoilt"},
        plugins=[str(tmp_path / "spoil.py")],
        data={"path": str(tmp_path / "pairs.jsonl")},
        training={"max_steps": 13, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "save_steps": None},
    )
    with pytest.raises(NotFiniteError, match=r"Rows: pairs\.jsonl row 20 \(loss nan\).* `ganpo replay .*replay/step-\d{8}`"):
        ganpo_core.train(run_file)
    (bundle,) = (tmp_path / "out" / "replay").iterdir()
    return bundle


def test_a_bundle_reproduces_the_value_and_names_the_row(stopped: Path) -> None:
    # The rows themselves are in the bundle: the file may be gone.
    (stopped.parents[2] / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    found = replay(stopped)
    assert found.is_reproduced
    assert found.recorded == ("loss",)
    assert found.rows == ("pairs.jsonl row 20",)
    done = CliRunner().invoke(make_app(), ["replay", str(stopped)])
    assert done.exit_code == 0
    assert "does it alone  pairs.jsonl row 20" in done.output
    assert done.output.splitlines()[-1] == "reproduced"


def test_a_bundle_holds_nothing_that_runs_and_nothing_of_the_environment(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {path.suffix for path in stopped.iterdir()} == {".json", ".safetensors"}
    assert "HF_HUB_OFFLINE" not in "".join(path.read_text() for path in stopped.glob("*.json"))


def test_where_no_bundle_can_be_written_none_is_named(
    tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spoil.py").write_text(SPOIL.replace("> 18", "> 0"))
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(NotFiniteError, match=r"step 1: .* is not finite") as stopped:
        ganpo_core.train(tiny_run(objective={"use": "spoilt"}, plugins=[str(tmp_path / "spoil.py")]))
    assert "ganpo replay" not in str(stopped.value)
    assert "no replay bundle: " in capsys.readouterr().err
    assert not list((tmp_path / "out" / "replay").glob("*"))


def test_a_step_is_replayed_at_its_place_in_the_run(
    tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of 48 pairs in 12 steps: the weight grows over all of them, and the bundle holds the five pairs of one."""
    (tmp_path / "spoil.py").write_text(SPOIL)
    lines = tiny_pairs.read_text().splitlines()
    lines[19] = json.dumps({"prompt": "<bos> w1", "chosen": " w2" * 20, "rejected": " w4"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    weights: list[float] = []

    def step(run: Any, *arguments: Any) -> int:
        try:
            return train_step(run, *arguments)
        finally:
            weights.append(run.regularizers[0].weight)

    for module in ("training", "replay"):
        monkeypatch.setattr(f"ganpo_core.{module}.train_step", step)
    run_file = tiny_run(
        objective={"use": "spoilt"},
        latents={"use": "hidden_state"},
        divergence={"use": "mse"},
        adversary={"weight": 12.0, "weight_warmup_ratio": 1.0},
        plugins=[str(tmp_path / "spoil.py")],
        data={"path": str(tmp_path / "pairs.jsonl")},
        training={"num_train_epochs": 1.0, "per_device_train_batch_size": 4, "save_steps": None},
    )
    with pytest.raises(NotFiniteError):
        ganpo_core.train(run_file)
    assert weights == list(range(len(weights)))
    (bundle,) = (tmp_path / "out" / "replay").iterdir()
    assert len(json.loads((bundle / "pairs.json").read_text())) == 5
    stopped_at = weights[-1]
    weights.clear()
    assert replay(bundle).is_reproduced
    assert set(weights) == {stopped_at} != {0.0}


def test_a_damaged_bundle_is_refused(stopped: Path) -> None:
    (stopped / "pairs.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"is no replay bundle that can be trusted: pairs\.json is damaged"):
        replay(stopped)


BLIND = """\
import gc
from ganpo_core import hookimpl
from ganpo_core.run import Run

@hookimpl
def ganpo_step_finished(report):
    if report.step == 2:
        for run in (found for found in gc.get_objects() if type(found) is Run):
            run.models.policy.model.rotary_emb.inv_freq.fill_(float("nan"))
"""


def test_what_the_files_of_a_model_do_not_hold_is_in_the_bundle(tiny_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "blind.py").write_text(BLIND)
    gc.collect()  # runs of other tests are none of its business
    with pytest.raises(NotFiniteError, match=r"step 3: .* are not numbers: model\.rotary_emb\.inv_freq"):
        ganpo_core.train(tiny_run(plugins=[str(tmp_path / "blind.py")]))
    (bundle,) = (tmp_path / "out" / "replay").iterdir()
    (tmp_path / "blind.py").write_text("")
    assert replay(bundle).is_reproduced
