"""What the tables of docs/lab.md are written with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ganpo_lab.configurations import Configuration
from ganpo_lab.evidence import Setting


@dataclass(frozen=True)
class Column:
    """A number of a row: its heading, what it is of, and at which setting."""

    heading: str
    measure: str
    setting: Setting


def row_name(row: Configuration) -> str:
    """As a table's first cell has it."""
    return f"`{row.name}` {row.label}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Its lines; every row has a cell for each heading."""
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(line)} |" for line in lines)]
