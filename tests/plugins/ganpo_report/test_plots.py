"""`ganpo plot`: margins from logs, and distances from anchors by hand and on a real small model."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from ganpo_report import anchors, margins
from ganpo_report.anchors import EXAMPLE, Distance, edit_distance, read_anchors, summarize
from run_samples import MakeRun, lines

from ganpo_core import DataError, GanpoError
from ganpo_core.cli.main import main

PNG = b"\x89PNG"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ganpo", "plot", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_margins_of_several_runs(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make_run(name="dpo").folder, make_run(name="ganpo", settings={"divergence": {"use": "ragan"}}).folder]
    sections = [{"name": "a", "divergence": {"use": "mse"}}, {"name": "b", "divergence": {"use": "cosine"}}]
    runs.append(make_run(name="two", settings={"adversaries": sections}).folder)
    assert command(monkeypatch, "margins", *runs, "--output", tmp_path / "plots") == 0
    out = capsys.readouterr().out
    assert "Figures 6 to 9" in out and "ragan" in out and "mse, cosine" in out and "80.0%" in out
    found = json.loads((tmp_path / "plots" / "margins.json").read_text())
    assert found["runs"]["ganpo"]["margin"] == [0.0, 0.1, 0.2, 0.3]
    assert found["runs"]["ganpo"]["steps"] == [10, 20, 30, 40]
    assert found["runs"]["dpo"]["final"] == {"margin": 0.3, "accuracy": 0.8}
    assert "the paper's" in found["paper"]
    assert (tmp_path / "plots" / "margins.png").read_bytes()[:4] == PNG


def test_a_run_without_margins_is_named(make_run: MakeRun) -> None:
    with pytest.raises(DataError, match=r"no margins in metrics\.jsonl"):
        margins.measure([make_run(lines(2, loss=1.0))])


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("abc", "ac", 1), ("ab", "ba", 2)],
)
def test_edit_distance(one: str, other: str, edits: int) -> None:
    assert edit_distance([*map(ord, one)], [*map(ord, other)]) == edits
    assert edit_distance([*map(ord, other)], [*map(ord, one)]) == edits


def test_the_summary_counts_pairs_of_one_anchor() -> None:
    """Anchor a: the near-string is farther in cosine, nearer in edits. Anchor b: a tie in edits counts one half."""
    rows = [
        Distance("a", "p", "paraphrase", 6, 1.0, 0.2, 1.0), Distance("a", "n", "near-string", 1, 0.2, 0.4, 3.0),
        Distance("b", "p", "paraphrase", 2, 0.5, 0.3, 1.0), Distance("b", "n", "near-string", 2, 0.4, 0.1, 2.0),
    ]  # fmt: skip
    found = summarize(rows)
    assert found["near_string_is_farther"] == {"edits": 0.25, "relative_edits": 0.0, "cosine": 0.5, "l2": 1.0}
    assert found["means"]["paraphrase"] == {"edits": 4.0, "relative_edits": 0.75, "cosine": 0.25, "l2": 1.0}


def test_the_distances_are_those_of_the_models_own_states(tiny_model: Path, tmp_path: Path) -> None:
    """Pooled by hand: the mean of the hidden states of the words, the special token in front left out."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / "anchors.jsonl"
    path.write_text('{"anchor": "<bos> w1 w2 w3", "paraphrases": ["<bos> w4 w5"], "near_strings": ["<bos> w1 w2 w6"]}\n')
    found = anchors.measure(str(tiny_model), read_anchors(path), layer=1)
    paraphrase, near = found["rows"]
    assert (paraphrase["edits"], near["edits"]) == (3, 1)
    assert near["relative_edits"] == pytest.approx(1 / 3)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model).eval()

    def pooled(text: str) -> torch.Tensor:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            return model(ids, output_hidden_states=True).hidden_states[1][0, 1:].double().mean(0)

    one, other = pooled("<bos> w1 w2 w3"), pooled("<bos> w1 w2 w6")
    assert near["l2"] == pytest.approx(math.dist(one.tolist(), other.tolist()))
    assert near["cosine"] == pytest.approx(1 - float(one @ other / (one.norm() * other.norm())))
    last = anchors.measure(str(tiny_model), read_anchors(path), layer=1, pool="last")
    assert last["rows"][1]["l2"] != near["l2"]


def test_the_layer_must_exist_and_the_model_too(tiny_model: Path) -> None:
    with pytest.raises(GanpoError, match="the model has 2 layers"):
        anchors.measure(str(tiny_model), read_anchors(EXAMPLE), layer=3)
    with pytest.raises(GanpoError, match="'/nowhere' is neither a model nor a run"):
        anchors.measure("/nowhere", read_anchors(EXAMPLE))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no anchors"),
        ("{", "line 1: not JSON"),
        ('{"anchor": 3}', "line 1: expected"),
        ('{"anchor": "a", "paraphrases": ["b"]}', "line 1: `near_strings` must be a list"),
    ],
)
def test_a_broken_file_of_anchors_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "anchors.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_anchors(path)
    with pytest.raises(DataError, match="no such file"):
        read_anchors(tmp_path / "nothing.jsonl")


def test_the_example_file_on_a_pretrained_model(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Near-strings are near in tokens, whatever the latents say: that is what makes them near-strings."""
    model = shared / "models" / "stories260K"
    assert command(monkeypatch, "anchor-distance", model, "--output", tmp_path) == 0
    out = capsys.readouterr().out
    assert "Figure 2" in out and "Hit there." in out
    found = json.loads((tmp_path / "anchor_distance.json").read_text(encoding="utf-8"))
    assert len(found["rows"]) == sum(len(a.paraphrases) + len(a.near_strings) for a in read_anchors(EXAMPLE))
    assert found["summary"]["near_string_is_farther"]["edits"] < 0.1
    assert all(row["cosine"] > 0 and row["l2"] > 0 for row in found["rows"])
    assert (tmp_path / "anchor_distance.png").read_bytes()[:4] == PNG
