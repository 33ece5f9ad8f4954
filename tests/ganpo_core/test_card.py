"""The run card: what is hashed, what is hidden, and what a run writes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import ganpo_core
from ganpo_core.card import git_state
from ganpo_core.folders import file_digest

MakeRun = Callable[..., dict[str, Any]]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_writes_what_it_was_made_of(tiny_run: MakeRun, tiny_model: Path, tiny_pairs: Path) -> None:
    run_file = tiny_run(data={"path": str(tiny_pairs), "eval_path": str(tiny_pairs)})
    folder = ganpo_core.train(run_file)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert datetime.fromisoformat(card["started"]).tzinfo is not None
    assert card["model"]["files"] == {"model.safetensors": sha256(tiny_model / "model.safetensors")}
    assert card["reference"] is None
    [source] = card["data"]["sources"]
    assert source["files"] == {"pairs.jsonl": sha256(tiny_pairs)}
    assert card["data"]["tokens"] == card["evaluation"]["tokens"]
    assert (card["data"]["pairs"], card["max_steps"], card["pairs_per_step"], card["processes"]) == (48, 3, 4, 1)
    rows = [json.loads(line) for line in tiny_pairs.read_text(encoding="utf-8").splitlines()]
    words = sum(len(row["chosen"].split()) + 1 for row in rows)  # and the end of sequence
    assert card["data"]["mean_lengths"]["chosen"] == pytest.approx(words / 48)
    assert card["data"]["report"] == ["pairs.jsonl: 48 rows, 48 kept"]


def test_a_run_that_continues_keeps_its_card_and_adds_the_new_start(tiny_run: MakeRun) -> None:
    folder = ganpo_core.train(tiny_run())
    first = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    for part in ("checkpoints", "policy"):
        shutil.rmtree(folder / part)
    (folder / "card.json").write_text(json.dumps({**first, "started": "long ago"}), encoding="utf-8")
    ganpo_core.train(tiny_run(), resume=True)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (card["started"], card["model"]) == ("long ago", first["model"])
    [again] = card["resumed"]
    assert again.keys() == {"started", "command", "git", "device", "processes"}


def test_tokens_differ_where_the_rows_do(tiny_run: MakeRun, tiny_pairs: Path, tmp_path: Path) -> None:
    def card(path: Path, name: str) -> dict[str, Any]:
        folder = ganpo_core.train(tiny_run(data={"path": str(path)}, output_dir=str(tmp_path / name)))
        found: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return found["data"]

    lines = tiny_pairs.read_text(encoding="utf-8").splitlines()
    copied, fewer = tmp_path / "copied.jsonl", tmp_path / "fewer.jsonl"
    copied.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    fewer.write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")
    whole, same, other = card(tiny_pairs, "a"), card(copied, "b"), card(fewer, "c")
    assert whole["tokens"] == same["tokens"] != other["tokens"]
    assert whole["sources"][0]["files"]["pairs.jsonl"] != same["sources"][0]["files"]["copied.jsonl"]


def test_a_secret_of_the_command_line_is_not_in_the_card(tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ganpo", "train", "run.yaml", "hub.token=abcdefgh", "training.max_steps=3"])
    card = (ganpo_core.train(tiny_run()) / "card.json").read_text(encoding="utf-8")
    assert json.loads(card)["command"] == ["ganpo", "train", "run.yaml", "hub.token=***", "training.max_steps=3"]
    assert "abcdefgh" not in card


def test_git_state_names_commit_and_changes(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("one")
    for arguments in (["init", "-q"], ["add", "file"], [*options, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    assert git_state(tmp_path) == {"commit": head.stdout.strip(), "changed": False}
    (tmp_path / "untracked").write_text("two")
    assert git_state(tmp_path) == {"commit": head.stdout.strip(), "changed": False}
    (tmp_path / "file").write_text("three")
    assert git_state(tmp_path) == {"commit": head.stdout.strip(), "changed": True}


def test_a_file_of_the_hubs_cache_is_known_by_its_name(tmp_path: Path) -> None:
    """The cache names a large file by its sha256 and links to it; reading it again would take minutes."""
    from ganpo_core.card import _model

    blob = tmp_path / "blobs" / ("1" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)
    assert _model(str(folder), None)["files"] == {"model.safetensors": "1" * 64}
    assert file_digest(blob) == sha256(blob)


@pytest.mark.parametrize("damage", ["", "{", "null", "[1]", "{}", "\x00" * 40])
def test_a_damaged_card_is_no_reason_to_fail(damage: str, tiny_run: MakeRun) -> None:
    folder = ganpo_core.train(tiny_run())
    first = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    shutil.rmtree(folder / "policy")
    (folder / "card.json").write_text(damage, encoding="utf-8")
    ganpo_core.train(tiny_run(), resume=True)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["data"] == first["data"]
    assert (first["first_start_unknown"], card["first_start_unknown"]) == (False, True)
