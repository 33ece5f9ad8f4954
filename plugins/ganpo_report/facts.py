"""The numbers of the page: what ran, with what, and where it ended, one column a run."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ganpo_report.findings import shift_per_token
from ganpo_report.runs import RunFolder

SHOWN_DIGITS = 12
"""Of a hash; the whole one is in card.json."""
ESSENTIAL = (
    "model.path", "model.dtype", "model.lora.r", "data.path", "data.max_length", "objective", "latents.use", "latents.layer",
    "discriminator.use", "divergence.use", "adversary.preset", "adversary.weight", "adversary.form", "training.learning_rate",
    "training.max_steps", "training.num_train_epochs", "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps", "seed",
)  # fmt: skip
"""Keys that are shown of a single run before all others."""


@dataclass(frozen=True)
class Row:
    """One line of a table: its label and its cells."""

    cells: tuple[str, ...]
    paper: bool = False


@dataclass(frozen=True)
class Grid:
    """A table for the page."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: frozenset[int] = frozenset()
    """Columns that are set flush right."""
    code: bool = False


def outcome(runs: Sequence[RunFolder]) -> Grid:
    """Where each run ended: means over the last tenth of what was logged."""
    lines: list[tuple[str, Callable[[RunFolder], float | None]]] = [
        ("steps", lambda run: run.last_step),
        ("reward margin", lambda run: _late(run, "rewards/margins")),
        ("reward accuracy", lambda run: _late(run, "rewards/accuracies")),
        ("held-out margin", lambda run: _late(run, "eval_rewards/margins")),
        ("held-out accuracy", lambda run: _late(run, "eval_rewards/accuracies")),
        ("chosen, nats a token against the reference", lambda run: shift_per_token(run, "chosen")),
        ("rejected, nats a token against the reference", lambda run: shift_per_token(run, "rejected")),
        ("objective's loss", lambda run: _late(run, "objective_loss")),
        ("gradient norm", lambda run: _late(run, "grad_norm")),
    ]
    for prefix in dict.fromkeys(prefix for run in runs for prefix in run.adversaries):
        named = prefix.partition("/")[2]
        for label, key in (("penalty", "penalty"), ("force beside the objective", "gradient_ratio")):
            lines.append((f"{label}, {named}" if named else label, partial(_late, key=f"{prefix}/{key}")))
    rows = []
    for label, read in lines:
        values = [read(run) for run in runs]
        if any(value is not None for value in values):
            rows.append(Row((label, *(show(value) for value in values))))
    return Grid(("", *(run.name for run in runs)), tuple(rows), frozenset(range(1, len(runs) + 1)))


def provenance(runs: Sequence[RunFolder]) -> Grid:
    """When, where, from which code, weights and rows."""
    lines: tuple[tuple[str, Callable[[RunFolder], str]], ...] = (
        ("started (UTC)", lambda run: _when(run.card)),
        ("resumed (UTC)", lambda run: ", ".join(_when(each) for each in run.card.get("resumed", []))),
        ("device", lambda run: _device(run.card)),
        ("seed", lambda run: str(run.settings.get("seed", ""))),
        ("project at", lambda run: _commit(run.card, "project")),
        ("ganpo", lambda run: run.versions.get("ganpo", "")),
        ("ganpo at", lambda run: _commit(run.card, "ganpo")),
        ("torch, transformers", lambda run: ", ".join(run.versions.get(name, "?") for name in ("torch", "transformers"))),
        ("weights before", lambda run: _model(run.card.get("model"))),
        ("reference", lambda run: _model(run.card.get("reference"))),
        ("policy after", policy_digest),
        ("rows", lambda run: _files(run.card.get("data"))),
        ("pairs", lambda run: _pairs(run.card.get("data"))),
        ("tokens of the pairs", lambda run: _short((run.card.get("data") or {}).get("tokens"))),
        ("held-out pairs", lambda run: _pairs(run.card.get("evaluation"))),
    )
    rows = [Row((label, *(read(run) or "–" for run in runs))) for label, read in lines]
    kept = tuple(row for row in rows if any(cell != "–" for cell in row.cells[1:]))
    return Grid(("", *(run.name for run in runs)), kept)


def configuration(runs: Sequence[RunFolder], keys: Sequence[str]) -> Grid:
    """Settings by dotted path; a dash where a run has no such key."""
    rows = [Row((key, *(show_setting(run.settings.get(key, "–")) for run in runs))) for key in keys]
    return Grid(("", *(run.name for run in runs)), tuple(rows), code=True)


def all_keys(runs: Sequence[RunFolder]) -> list[str]:
    """Every key of the run files, in their order."""
    return list(dict.fromkeys(key for run in runs for key in run.settings))


def differing_keys(runs: Sequence[RunFolder], but: Sequence[str] = ("output_dir",)) -> list[str]:
    """Keys whose value is not the same in all runs."""
    missing = object()
    return [
        key
        for key in all_keys(runs)
        if key not in but and any(run.settings.get(key, missing) != runs[0].settings.get(key, missing) for run in runs[1:])
    ]


def essential_keys(run: RunFolder) -> list[str]:
    """What says most about one run."""
    return [
        key
        for wanted in ESSENTIAL
        for key in run.settings
        if _belongs(key, wanted) and run.settings[key] is not None
    ]


def telling_keys(runs: Sequence[RunFolder], keys: Sequence[str]) -> list[str]:
    """Of keys that differ, the essential ones, and those that differ among runs that have them at all: not every
    option of a section that some run lacks."""

    def values(key: str) -> set[str]:
        return {str(run.settings[key]) for run in runs if key in run.settings}

    return [
        key
        for key in keys
        if len(values(key)) > 1 or any(_belongs(key, each) for each in ESSENTIAL)
    ]


def policy_digest(run: RunFolder) -> str:
    """The trained weights' sha256, from the manifest; empty where the run has not finished."""
    path = run.folder / "policy" / "manifest.json"
    if not path.is_file():
        return ""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    return ", ".join(_short(digest) for name, (_, digest) in sorted(manifest.items()) if name.endswith(".safetensors"))


def show(value: object) -> str:
    """A number for reading: four significant digits, without needless zeros."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)


def as_text(found: Mapping[str, Any]) -> str:
    """JSON for a file; JSON has no nan, so what is not finite is null."""
    return json.dumps(_finite(found), indent=1, ensure_ascii=False) + "\n"


def show_setting(value: object) -> str:
    """A value as a run file has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return (f"{value:g}" if float(f"{value:g}") == value else repr(value)) if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _belongs(key: str, section: str) -> bool:
    """Also within one of several adversaries, `adversaries.0.adversary.weight`."""
    plain = re.sub(r"^adversaries\.\d+\.", "", key)
    return plain == section or plain.startswith(f"{section}.")


def _late(run: RunFolder, key: str) -> float | None:
    series = run.series(key)
    if not series:
        return None
    return series.last if key.startswith("eval_") else series.late


def _short(digest: object) -> str:
    return str(digest)[:SHOWN_DIGITS] if digest else ""


def _when(start: Mapping[str, Any]) -> str:
    return str(start.get("started", "")).replace("T", " ").removesuffix("+00:00")


def _commit(card: Mapping[str, Any], which: str) -> str:
    state = (card.get("git") or {}).get(which)
    if not state:
        return ""
    return _short(state["commit"]) + (" + changes" if state["changed"] else "")


def _device(card: Mapping[str, Any]) -> str:
    count = card.get("processes", 1)
    return f"{card.get('device', '')}{f', {count} processes' if count != 1 else ''}"


def _model(model: Mapping[str, Any] | None) -> str:
    if not model:
        return ""
    if not model["files"]:
        return str(model["path"])
    digests = [_short(digest) for digest in model["files"].values()]
    return digests[0] if len(digests) == 1 else f"{digests[0]} and {len(digests) - 1} more files"


def _files(data: Mapping[str, Any] | None) -> str:
    if not data:
        return ""
    shown = []
    for source in data["sources"]:
        digests = [_short(digest) for digest in (source["files"] or {}).values()]
        more = f" and {len(digests) - 1} more files" if len(digests) > 1 else ""
        shown.append(f"{digests[0]}{more}" if digests else source["path"])
    return ", ".join(shown)


def _pairs(data: Mapping[str, Any] | None) -> str:
    if not data:
        return ""
    lengths = data["mean_lengths"]
    return f"{data['pairs']:,}, of {' + '.join(f'{lengths[part]:.0f}' for part in ('prompt', 'chosen', 'rejected'))} tokens"
