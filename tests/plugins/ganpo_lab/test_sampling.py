"""Shared noise, temperatures that match entropies, and the demo in miniature."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from ganpo_lab import demo
from ganpo_lab.demo import run_demo
from ganpo_lab.evaluate import Evaluation, load_policy
from ganpo_lab.preferences import PreferenceRecipe, held_out, make_preferences
from ganpo_lab.reference import ReferenceRecipe, make_reference
from ganpo_lab.sampling import gumbel_noise, sample
from ganpo_lab.world import EOS, draw_requests

TINY = ReferenceRecipe(steps=30, batch_size=16, hidden_size=32, num_layers=1, num_heads=2, ffn_size=64)
FEW = PreferenceRecipe(num_prompts=120, num_held_out=40)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    assert make_reference(TINY, folder / "reference", lambda step, loss: None)
    make_preferences(FEW, folder / "reference", folder / "preferences", load_policy)
    return folder


def test_the_same_noise_gives_the_same_answers_in_any_batch(lab: Path) -> None:
    model, requests = load_policy(lab / "reference"), draw_requests("test", 24, random.Random(0))
    noise = gumbel_noise(24, 5)
    together = sample(model, requests, 1.0, noise)
    apart = [sample(model, [request], 1.0, noise[i : i + 1])[0] for i, request in enumerate(requests)]
    assert together == apart
    assert together != sample(model, requests, 1.0, gumbel_noise(24, 6))


def test_cold_sampling_is_greedy(lab: Path) -> None:
    model, requests = load_policy(lab / "reference"), draw_requests("test", 8, random.Random(0))
    assert sample(model, requests, 1e-6, gumbel_noise(8, 1)) == sample(model, requests, 1e-6, gumbel_noise(8, 2))


def test_gumbel_noise_samples_the_softmax() -> None:
    """argmax(log p + noise) draws from p: a share of 0.7 is met within 0.02 over 4000 draws."""
    noise = gumbel_noise(4000, 3)[:, 0, :2]
    share = ((torch.tensor([0.7, 0.3]).log() + noise).argmax(-1) == 0).double().mean().item()
    assert share == pytest.approx(0.7, abs=0.02)


def test_the_reference_is_made_once_and_ties_with_itself(lab: Path) -> None:
    assert not make_reference(TINY, lab / "reference", lambda step, loss: None)
    model = load_policy(lab / "reference")
    evaluation = Evaluation(model, held_out(lab / "preferences"), seed=0, num_prompts=64)
    rows = list(evaluation.rows("again", model))
    assert [round(row.temperature, 4) for row in rows] == [0.5, 1.0, 1.5, 1.0]
    assert [row.matched for row in rows] == [False, False, False, True]
    assert all(row.latent == 0.0 for row in rows)
    assert rows[1].reward == rows[3].reward


def test_pairs_are_rows_that_the_data_code_reads(lab: Path) -> None:
    rows = [json.loads(line) for line in (lab / "preferences" / "train.jsonl").read_text().splitlines()]
    assert 60 < len(rows) <= 120
    assert all(row["chosen"] != row["rejected"] and row["prompt"].startswith("<bos> k") for row in rows)
    assert not any(EOS in row["chosen"] for row in rows)


def test_the_demo_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two steps of each run: three trained policies, the reference, one colder row, and everything written down."""
    monkeypatch.setattr(demo, "ReferenceRecipe", lambda seed=0: TINY)
    monkeypatch.setattr(demo, "PreferenceRecipe", lambda seed=0: FEW)
    for _ in range(2):  # a second demo reuses the reference and trains again
        rows = run_demo(tmp_path / "lab", seed=0, steps=2, num_prompts=32)
    assert [row.policy for row in rows] == ["reference"] * 3 + ["colder reference"] + [
        name for name in ("dpo", "ganpo", "mse") for _ in range(4)
    ]
    saved = json.loads((tmp_path / "lab" / "table.json").read_text())
    assert len(saved) == 16
    assert (tmp_path / "lab" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    table = json.loads((tmp_path / "lab" / "ganpo" / "evaluation" / "recordworld.json").read_text())
    assert [row["policy"] for row in table["rows"]] == ["reference"] * 3 + ["colder reference"] + ["ganpo"] * 4
    answers = json.loads((tmp_path / "lab" / "ganpo" / "samples.json").read_text())
    assert len(answers) == 12
    assert all(answer.keys() >= {"instruction", "output", "generator"} for answer in answers)
    assert "unchanged, used again" in capsys.readouterr().out
    assert {"table.md", "dpo", "ganpo", "mse"} <= {path.name for path in (tmp_path / "lab").iterdir()}


def test_the_demo_removes_nothing_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo" / "thesis.txt").write_text("years of work")
    with pytest.raises(demo.GanpoError, match="holds something that is not a run"):
        demo.clear(tmp_path / "dpo")
    assert (tmp_path / "dpo" / "thesis.txt").exists()


def test_missing_run_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(demo.GanpoError, match=r"no run file at .*dpo\.yaml; give the folder with --examples"):
        run_demo(tmp_path / "out", examples=tmp_path)

