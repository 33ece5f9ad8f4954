"""docs/lab.md: tables between markers, made of the saved results; what stands around them is written by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ganpo_core import GanpoError
from ganpo_lab.configurations import TablePlan
from ganpo_lab.evidence import Evidence
from ganpo_lab.figure import draw_temperatures
from ganpo_lab.findings import KINDS

BLOCK = re.compile(r"(?P<head><!-- lab: (?P<table>\w+) (?P<kind>\w+) -->\n).*?(?P<tail><!-- end -->)", re.DOTALL)

FIGURES = "lab"
"""The folder beside the page; a page that shows `lab/TABLE.png` has it drawn."""


def write_page(page: Path, plans: Sequence[TablePlan], results: Path) -> None:
    """Make every table and figure of the page again. Raises GanpoError for a page that is not there, and for an unknown block."""
    if not page.is_file():
        raise GanpoError(f"lab claims: no page at {page}; give the one whose tables to write with --page")
    text = page.read_text(encoding="utf-8")
    page.write_text(rendered(text, plans, results), encoding="utf-8")
    for plan in plans:
        if f"({FIGURES}/{plan.name}.png)" in text:
            draw_temperatures(Evidence(plan, results), page.parent / FIGURES / f"{plan.name}.png")


def rendered(text: str, plans: Sequence[TablePlan], results: Path, kinds: Iterable[str] = tuple(KINDS)) -> str:
    """A page with its tables of these kinds made again."""
    evidence = {plan.name: Evidence(plan, results) for plan in plans}
    wanted = set(kinds)

    def fresh(block: re.Match[str]) -> str:
        table, kind = block["table"], block["kind"]
        if kind not in KINDS:
            raise GanpoError(f"lab claims: no table of kind '{kind}'; kinds: {', '.join(KINDS)}")
        if table not in evidence or kind not in wanted:
            return block[0]
        lines = KINDS[kind](evidence[table])
        return f"{block['head']}\n" + "".join(f"{line}\n" for line in lines) + f"\n{block['tail']}"

    return BLOCK.sub(fresh, text)
