"""What a command found: a table for the terminal, a JSON file and a picture, with the paper's figures told apart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WIDE = 180
"""Characters of a table that does not go to a terminal."""
PAPER = "arXiv 2601.22083"
"""Where the figures are from that are labelled as the paper's."""
Value = str | float | int | bool | None
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Result:
    """Rows with the same columns; `None` is printed as a dash, and the columns `X low` and `X high` as one, `X interval`."""

    name: str
    title: str
    rows: Sequence[Row]
    paper: Sequence[Row] = ()
    """The paper's figures, where they are known."""
    notes: Sequence[str] = ()
    hidden: frozenset[str] = frozenset()
    """Columns that the JSON file has and the table leaves out."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the numbers were made from, and what has no place in a table; for the JSON file."""

    def table(self) -> Table:
        """For the terminal."""
        notes = [*self.notes, *([f"paper: {PAPER}"] if self.paper else [])]
        table = Table(title=self.title, caption="\n".join(notes), caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0))
        own, papers = ([_with_intervals(row) for row in rows] for rows in (self.rows, self.paper))
        columns = list(dict.fromkeys(key for row in (*own, *papers) for key in row if key not in self.hidden))
        for column in columns:
            table.add_column(column, justify="left" if column == columns[0] else "right", overflow="fold")
        for row in own:
            table.add_row(*(shown(row.get(column)) for column in columns))
        if papers:
            table.add_section()
        for row in papers:
            first = f"paper: {row.get(columns[0])}"
            table.add_row(first, *(shown(row.get(column)) for column in columns[1:]), style="dim")
        return table

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "paper": {"source": PAPER, "rows": [dict(row) for row in self.paper]} if self.paper else None,
            "notes": list(self.notes),
            **self.facts,
        }


def show(result: Result, folder: Path, draw: Callable[[Any], None]) -> None:
    """Print the table; write NAME.json and NAME.png into `folder`. `draw(figure)` fills a matplotlib figure."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(result.as_json()), indent=1, ensure_ascii=False)
    (folder / f"{result.name}.json").write_text(text + "\n", encoding="utf-8")
    console = plain_console()
    if console.is_terminal:
        console.print(result.table())
    else:
        print(_wide(result))
    picture = folder / f"{result.name}.png"
    _draw(draw, picture)
    print(f"written: {folder / result.name}.json, {picture.name}")


def shown(value: Value) -> str:
    """A value as a table shows it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 100 else f"{value:.3f}"
    return str(value)


def _with_intervals(row: Row) -> Row:
    """Two ends of an interval in one cell."""
    told: dict[str, Value] = {}
    for column, value in row.items():
        stem, _, end = column.rpartition(" ")
        if end == "low" and f"{stem} high".strip() in row:
            told[f"{stem} interval".strip()] = f"{shown(value)} to {shown(row[f'{stem} high'.strip()])}"
        elif not (end == "high" and f"{stem} low".strip() in row):
            told[column] = value
    return told


def plain_console(width: int | None = None) -> Console:
    """A console that prints what it is given: names and texts are anyone's, and `[…]` or `:x:` in them is no markup."""
    return Console(width=width, highlight=False, markup=False, emoji=False)


def _wide(result: Result) -> str:
    """Into a file or a pipe a table is as wide as it needs to be."""
    console = plain_console(WIDE)
    with console.capture() as captured:
        console.print(result.table())
    return captured.get().rstrip()


def _draw(draw: Callable[[Any], None], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"text.parse_math": False}):  # a dollar in a name is no formula
        figure = plt.figure(figsize=(9, 4.5), layout="constrained")
        draw(figure)
        figure.savefig(path, dpi=130)
    plt.close(figure)


def _finite(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
