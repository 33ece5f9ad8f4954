"""What evaluation commands left in a run's folder: tables as JSON, and outputs in AlpacaEval's format."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Value = str | float | int | bool | None
TABLE_PLACES = ("evaluation/*.json",)
OUTPUT_PLACES = ("samples*.json", "*outputs*.json", "samples/*.json", "generations/*.json", "evaluation/*.json")
TEMPERATURE, BUCKET = ("temperature", "t"), ("bucket", "length_bucket", "length bucket")
"""Names of the columns by which a table is drawn."""
MATCHED, AGAINST = "matched", "against t"
"""Columns that say whether a row is at the reference's entropy, and at which temperature of the reference; left out, at 1."""
OUTPUT_KEYS = {"instruction", "output"}


@dataclass(frozen=True)
class Table:
    """One evaluation: `{"title", "columns", "rows", "notes", "paper"}`, rows as mappings or as lists."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Value], ...]
    notes: tuple[str, ...] = ()
    paper: tuple[Mapping[str, Value], ...] = ()
    """Rows of the paper's own figures, shown apart and labelled as the paper's."""
    run: str = ""
    file: str = ""

    def column(self, *names: str) -> str | None:
        """The first column with one of these names, in any case; None if there is none."""
        lower = {column.lower(): column for column in self.columns}
        return next((lower[name] for name in names if name in lower), None)

    @property
    def numeric(self) -> tuple[str, ...]:
        """The columns that hold numbers."""
        return tuple(column for column in self.columns if any(_is_number(row.get(column)) for row in self.rows))

    def by_name(self, *axes: str) -> dict[str, list[Mapping[str, Value]]]:
        """The rows of each thing measured: whatever the columns of text say, those of the axes aside."""
        texts = [
            column
            for column in self.columns
            if column not in axes and any(isinstance(row.get(column), str) for row in self.rows)
        ]
        found: dict[str, list[Mapping[str, Value]]] = {}
        for row in self.rows:
            found.setdefault(", ".join(str(row.get(column)) for column in texts) or self.run, []).append(row)
        return found


@dataclass(frozen=True)
class Outputs:
    """One generator's responses, by instruction."""

    title: str
    responses: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """Everything under a run's folder that can be shown."""

    tables: tuple[Table, ...]
    outputs: tuple[Outputs, ...]
    refused: tuple[str, ...]
    """Files that are neither, each with the reason."""


def find(folder: Path, run: str, places: Sequence[str] = (*TABLE_PLACES, *OUTPUT_PLACES)) -> Found:
    """Read every file at the documented places, each once."""
    tables: list[Table] = []
    outputs: list[Outputs] = []
    refused: list[str] = []
    for path in dict.fromkeys(path for place in places for path in sorted(folder.glob(place))):
        name = path.relative_to(folder).as_posix()
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            refused.append(f"{run}/{name} is not JSON: {error}")
            continue
        if isinstance(written, list) and written and all(_is_output(row) for row in written):
            outputs += _outputs(written, run, path.stem)
            continue
        table = _table(written, run, name, path.stem)
        if table is None:
            refused.append(f"{run}/{name} has no `columns` and `rows`, and is no list of outputs")
        else:
            tables.append(table)
    return Found(tuple(tables), tuple(outputs), tuple(refused))


def _is_output(row: object) -> bool:
    return isinstance(row, Mapping) and row.keys() >= OUTPUT_KEYS


def _outputs(rows: Sequence[Mapping[str, Any]], run: str, stem: str) -> Iterator[Outputs]:
    """A file may hold several generators, or one at several temperatures."""
    held: dict[str, dict[str, str]] = {}
    for row in rows:
        marks = [str(row["generator"])] if row.get("generator") else []
        marks += [f"T = {row['temperature']}"] if row.get("temperature") is not None else []
        held.setdefault(", ".join(marks) or stem, {}).setdefault(_prompt(row["instruction"]), str(row["output"]))
    for mark, responses in held.items():
        yield Outputs(mark if run in mark else f"{run}: {mark}", responses)


def _prompt(instruction: object) -> str:
    """A prompt as text; messages one after the other."""
    if isinstance(instruction, list) and all(isinstance(message, Mapping) for message in instruction):
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in instruction)
    return str(instruction)


def _table(written: object, run: str, name: str, stem: str) -> Table | None:
    title = stem.replace("_", " ")
    if isinstance(written, list) and written and all(isinstance(row, Mapping) for row in written):
        written = {"rows": written}
    if not isinstance(written, Mapping) or not isinstance(written.get("rows"), list) or not written["rows"]:
        return None
    rows, columns, paper = written["rows"], written.get("columns"), _listed(written.get("paper"))
    if columns is None and all(isinstance(row, Mapping) for row in (*rows, *paper)):
        columns = list(dict.fromkeys(key for row in (*rows, *paper) for key in row))
    if not isinstance(columns, list):
        return None
    return Table(
        title=str(written.get("title") or title),
        columns=tuple(map(str, columns)),
        rows=tuple(_row(row, columns) for row in rows),
        notes=tuple(map(str, _listed(written.get("notes")))),
        paper=tuple(_row(row, columns) for row in paper),
        run=run,
        file=name,
    )


def _row(row: Any, columns: Sequence[str]) -> Mapping[str, Value]:
    if isinstance(row, Mapping):
        return {str(key): value for key, value in row.items()}
    return dict(zip(columns, row if isinstance(row, list) else [row], strict=False))


def _listed(value: object) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, Mapping) and isinstance(value.get("rows"), list):
        return list(value["rows"])
    return value if isinstance(value, list) else [value]


def number(value: object) -> float:
    """A cell as a number; NaN where it holds none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def merge(tables: Sequence[Table]) -> list[Table]:
    """Tables of the same title and columns as one; a column `run` where the rows themselves do not say whose they are."""
    groups: dict[tuple[str, tuple[str, ...]], list[Table]] = {}
    for table in tables:
        groups.setdefault((table.title, table.columns), []).append(table)
    return [_merged(group) for group in groups.values()]


def _merged(group: Sequence[Table]) -> Table:
    if len(group) == 1:
        return group[0]
    first = group[0]
    rows = _distinct([row for table in group for row in table.rows])
    notes = tuple(dict.fromkeys(note for table in group for note in table.notes))
    merged = replace(first, rows=rows, notes=notes, paper=_distinct([row for table in group for row in table.paper]))
    numbers = {column for column in first.columns if column in merged.numeric}
    named = [tuple(str(row.get(column)) for column in first.columns if column not in numbers) for row in rows]
    axes = [column for column in first.columns if column.lower() in TEMPERATURE]
    places = [(name, *(row.get(axis) for axis in axes)) for name, row in zip(named, rows, strict=True)]
    if len(set(places)) == len(places):
        return merged
    rows = tuple({"run": table.run, **row} for table in group for row in table.rows)
    return replace(merged, columns=("run", *first.columns), rows=rows)


def _distinct(rows: Sequence[Mapping[str, Value]]) -> tuple[Mapping[str, Value], ...]:
    kept: list[Mapping[str, Value]] = []
    for row in rows:
        if row not in kept:
            kept.append(row)
    return tuple(kept)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
