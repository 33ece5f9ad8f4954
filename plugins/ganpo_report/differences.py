"""What differs between two runs: settings, versions, hashes, final metrics, and the step at which the metrics part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ganpo_report.facts import differing_keys, policy_digest, show, show_setting
from ganpo_report.runs import Line, RunFolder

if TYPE_CHECKING:
    from rich.table import Table

ABSENT = "(absent)"
IGNORED = ("output_dir",)
"""Two runs of one file lie in two folders; that alone is no difference."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same."""

    key: str
    first: object
    second: object

    @property
    def gap(self) -> float | None:
        """Second minus first, where both are numbers."""
        if isinstance(self.first, int | float) and isinstance(self.second, int | float):
            return self.second - self.first
        return None


@dataclass(frozen=True)
class Parting:
    """The first step at which the runs logged something else."""

    step: int
    metrics: tuple[Difference, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything in which two runs differ."""

    names: tuple[str, str]
    settings: tuple[Difference, ...]
    versions: tuple[Difference, ...]
    hashes: tuple[Difference, ...]
    metrics: tuple[Difference, ...]
    """Of each run's last line of training and of held-out pairs."""
    parting: Parting | None

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        return not (self.settings or self.versions or self.hashes or self.metrics or self.parting)

    def as_json(self) -> dict[str, Any]:
        """As plain data."""

        def listed(differences: Sequence[Difference]) -> list[dict[str, object]]:
            return [{"key": each.key, "values": [each.first, each.second], "gap": each.gap} for each in differences]

        sections = {name: listed(getattr(self, name)) for name in ("settings", "versions", "hashes", "metrics")}
        parting = self.parting and {"step": self.parting.step, "metrics": listed(self.parting.metrics)}
        return {"runs": list(self.names), "identical": self.identical, **sections, "first_difference": parting}


def compare(first: RunFolder, second: RunFolder, tolerance: float = 0.0) -> Comparison:
    """Metrics count as equal within `tolerance`, relative to the larger; everything else must be the same."""
    settings = [
        Difference(key, show_setting(first.settings.get(key, ABSENT)), show_setting(second.settings.get(key, ABSENT)))
        for key in differing_keys((first, second), IGNORED)
    ]
    return Comparison(
        names=(first.name, second.name),
        settings=tuple(settings),
        versions=_unlike(first.versions, second.versions),
        hashes=_unlike(_hashes(first), _hashes(second)),
        metrics=_final(first, second, tolerance),
        parting=_parting(first, second, tolerance),
    )


def tables(found: Comparison) -> list[Table]:
    """For the terminal: one table a section that holds anything."""
    shown = []
    sections = (("settings", found.settings), ("versions", found.versions), ("data, weights and code", found.hashes))
    for title, differences in sections:
        if differences:
            shown.append(_table(title, found.names, differences, gaps=False))
    if found.metrics:
        shown.append(_table("final metrics", found.names, found.metrics, gaps=True))
    if found.parting:
        title = f"first difference of the metrics: step {found.parting.step}"
        shown.append(_table(title, found.names, found.parting.metrics, gaps=True))
    return shown


def _table(title: str, names: Sequence[str], differences: Sequence[Difference], gaps: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, overflow="fold", justify="right" if gaps else "left")
    if gaps:
        table.add_column("difference", justify="right", no_wrap=True)
    for each in differences:
        row = [each.key, show(each.first), show(each.second)]
        if gaps:
            row.append("" if each.gap is None else f"{each.gap:+.3g}")
        table.add_row(*row)
    return table


def _hashes(run: RunFolder) -> dict[str, str]:
    """What the run was made of, and the weights that came out, by name."""
    card = run.card
    found: dict[str, str] = {}
    for part in ("model", "reference"):
        model = card.get(part) or {}
        found |= {f"{part} {name}": digest for name, digest in (model.get("files") or {}).items()}
        if model.get("commit"):
            found[f"{part} commit"] = model["commit"]
    for part, label in (("data", "rows"), ("evaluation", "held-out rows")):
        data = card.get(part) or {}
        for index, source in enumerate(data.get("sources", [])):
            found |= {f"{label} {index + 1} {name}": digest for name, digest in (source["files"] or {}).items()}
        if data:
            found[f"{label}, tokens"] = data["tokens"]
    for which, state in (card.get("git") or {}).items():
        if state:
            found[f"git {which}"] = state["commit"] + (" with changes" if state["changed"] else "")
    for key in ("processes", "device"):
        if key in card:
            found[key] = str(card[key])
    if digest := policy_digest(run):
        found["trained policy"] = digest
    return found


def _unlike(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[Difference, ...]:
    keys = dict.fromkeys((*first, *second))
    pairs = ((key, first.get(key, ABSENT), second.get(key, ABSENT)) for key in keys)
    return tuple(Difference(key, one, other) for key, one, other in pairs if one != other)


def _final(first: RunFolder, second: RunFolder, tolerance: float) -> tuple[Difference, ...]:
    found: list[Difference] = []
    for one, other in ((first.training, second.training), (first.held_out, second.held_out)):
        found += _lines(one[-1] if one else {}, other[-1] if other else {}, tolerance)
    return tuple(found)


def _parting(first: RunFolder, second: RunFolder, tolerance: float) -> Parting | None:
    one, other = _by_step(first), _by_step(second)
    for step in sorted({*one, *other}):
        if differences := _lines(one.get(step, {}), other.get(step, {}), tolerance):
            return Parting(step, tuple(differences))
    return None


def _by_step(run: RunFolder) -> dict[int, Line]:
    merged: dict[int, dict[str, float]] = {}
    for line in (*run.training, *run.held_out):
        merged.setdefault(int(line["step"]), {}).update(line)
    return dict(merged)


def _lines(one: Line, other: Line, tolerance: float) -> list[Difference]:
    found = []
    for key in dict.fromkeys((*one, *other)):
        mine, theirs = one.get(key), other.get(key)
        if mine is None or theirs is None:
            found.append(Difference(key, ABSENT if mine is None else mine, ABSENT if theirs is None else theirs))
        elif not _same(mine, theirs, tolerance):
            found.append(Difference(key, mine, theirs))
    return found


def _same(one: float, other: float, tolerance: float) -> bool:
    if math.isnan(one) and math.isnan(other):
        return True
    return one == other or math.isclose(one, other, rel_tol=tolerance, abs_tol=0.0)
