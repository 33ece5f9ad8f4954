"""The run card: what a run was made of, so that it can be repeated and two runs can be told apart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ganpo_core.data import DataReport, PairDataset
from ganpo_core.data.files import FILE_READERS, suffix_of
from ganpo_core.data.sources import NamedSource, named_sources
from ganpo_core.folders import file_digest
from ganpo_core.redact import redact
from ganpo_core.run import Run

CARD = "card.json"
HUB_BLOB = re.compile(r"[0-9a-f]{64}")


def make_card(run: Run, path: Path) -> dict[str, Any]:
    """Start, command, code, weights and rows, as plain data; hashes are sha256.

    A run that continues keeps the card at `path`, and adds how it was started again; one that is damaged is made anew, and
    says that it does not know the first start.
    """
    earlier = _read(path) if path.is_file() else None
    if earlier is not None:
        return {**earlier, "resumed": [*earlier["resumed"], _start(run)]}
    config = run.config
    evaluation = None
    if run.evaluation is not None:
        evaluation = _data(named_sources(config.data, evaluation=True), run.reports[-1], run.evaluation)
    return {
        **_start(run),
        "first_start_unknown": path.is_file(),
        "resumed": [],
        "max_steps": run.max_steps,
        "pairs_per_step": run.pairs_per_step,
        "model": _model(config.model.path, config.model.revision),
        "reference": _model(config.model.reference, config.model.revision) if config.model.reference else None,
        "data": _data(named_sources(config.data), run.reports[0], run.pairs),
        "evaluation": evaluation,
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out at a folder, and whether tracked files were changed since; None outside of a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _read(path: Path) -> dict[str, Any] | None:
    """None for what is no card: a run must not fail for what only describes it."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return card if isinstance(card, dict) and isinstance(card.get("resumed"), list) else None


def _start(run: Run) -> dict[str, Any]:
    """When, where and from which code."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [redact(argument) for argument in sys.argv],
        "git": {"project": git_state(Path.cwd()), "ganpo": git_state(Path(__file__).parent)},
        "device": _device(run.models.device),
        "processes": run.accelerator.num_processes,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _model(path: str, revision: str | None) -> dict[str, Any]:
    folder, commit = Path(path), None
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(path, "config.json", revision=revision)
        if not isinstance(cached, str):
            return {"path": redact(path), "commit": None, "files": None}
        folder = Path(cached).parent
        commit = folder.name
    return {"path": redact(path), "commit": commit, "files": dict(_digests(folder, folder.glob("*.safetensors")))}


def _data(sources: Sequence[NamedSource], report: DataReport, pairs: PairDataset) -> dict[str, Any]:
    prompt, chosen, rejected = pairs.lengths.mean(axis=0).tolist()
    return {
        "sources": [{"path": redact(source.path), "split": source.split, "files": _source_files(source)} for source in sources],
        "report": [redact(line) for line in report.lines()],
        "pairs": len(pairs),
        "tokens": pairs.fingerprint(),
        "mean_lengths": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
    }


def _source_files(source: NamedSource) -> dict[str, str] | None:
    """None for the hub's: its rows are known by their tokens alone."""
    path = Path(source.path)
    if path.is_file():
        return {redact(path.name): file_digest(path)}
    if path.is_dir():
        return dict(_digests(path, (file for file in path.rglob("*") if suffix_of(file) in FILE_READERS)))
    return None


def _digests(folder: Path, files: Iterator[Path]) -> Iterator[tuple[str, str]]:
    for path in sorted(files):
        # In the hub's cache a large file is a link to one that is named by its sha256: no need to read gigabytes.
        blob = path.resolve().name
        yield path.relative_to(folder).as_posix(), blob if HUB_BLOB.fullmatch(blob) else file_digest(path)
