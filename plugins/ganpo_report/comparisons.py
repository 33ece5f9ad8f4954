"""Plain sentences on several runs read together, and on their evaluations beside the reference's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ganpo_report.findings import Finding, Level
from ganpo_report.runs import RunFolder
from ganpo_report.tables import AGAINST, MATCHED, TEMPERATURE, Table, Value, number


def comparisons(runs: Sequence[RunFolder]) -> list[Finding]:
    """What matters when several runs are read against each other."""
    if len(runs) < 2:
        return []
    return [*same_data(runs), *same_start(runs), *one_seed(runs)]


def shared(found: Sequence[Sequence[Finding]]) -> list[Finding]:
    """What is found in every one of several runs: said once."""
    return [] if len(found) < 2 else [finding for finding in found[0] if all(finding in other for other in found[1:])]


def same_data(runs: Sequence[RunFolder]) -> Iterator[Finding]:
    """Curves over different pairs do not compare."""
    known = {run.card["data"]["tokens"] for run in runs if run.card}
    if len(known) > 1:
        yield Finding("warning", "These runs were trained on different tokens: their curves do not compare pair by pair.")


def same_start(runs: Sequence[RunFolder]) -> Iterator[Finding]:
    """Nor do runs that start from different weights."""
    known = {str(sorted((run.card["model"]["files"] or {}).items())) for run in runs if run.card}
    if len(known) > 1:
        yield Finding("warning", "These runs start from different weights.")


def one_seed(runs: Sequence[RunFolder]) -> Iterator[Finding]:
    """A difference that one seed shows is no result yet."""
    seeds = {run.settings.get("seed") for run in runs}
    if len(seeds) == 1:
        text = f"All runs have seed {seeds.pop()}: differences between them are of one seed, which decides nothing."
        yield Finding("note", text)


def evaluated(tables: Sequence[Table]) -> list[Finding]:
    """What tables over temperatures say about quality, entropy aside."""
    return [finding for table in tables for finding in matched_entropy(table)]


def matched_entropy(table: Table) -> Iterator[Finding]:
    """Rows at T >= 1 stand beside one at the reference's token entropy, or mean little."""
    temperature, matched, against = table.column(*TEMPERATURE), table.column(MATCHED), table.column(AGAINST)
    measure = table.column("strict", "valid", "win", "win_rate")
    if temperature is None or measure is None:
        return
    named = table.by_name(temperature)
    hot = [name for name, rows in named.items() if any(number(row.get(temperature)) >= 1 for row in rows)]

    def theirs_at(row: Mapping[str, Value]) -> float:
        """The temperature at which the reference is as random as a matched row."""
        return number(row.get(against)) if against else 1.0

    at_match = {
        name: min(own, key=lambda row: (theirs_at(row) != 1, theirs_at(row)))
        for name, rows in named.items()
        if (own := [row for row in rows if matched and row.get(matched)])
    }
    if hot and not at_match:
        yield Finding(
            "note",
            f"{table.title}: no row at matched entropy. A policy that is merely surer of itself looks better at T >= 1.",
        )
    reference = next((rows for name, rows in named.items() if "reference" in name and "colder" not in name), [])
    for name, row in at_match.items():
        beside = next((each for each in reference if number(each.get(temperature)) == theirs_at(row)), None)
        if beside is not None:
            mine, theirs = number(row.get(measure)), number(beside.get(measure))
            at = "" if theirs_at(row) == 1 else f" at {theirs_at(row):g}"
            level: Level = "good" if mine >= theirs else "note"
            yield Finding(
                level,
                f"{name}: at the reference's token entropy{at} (T = {number(row.get(temperature)):.2f}) {measure} is {mine:.3f}; "
                f"the reference's own is {theirs:.3f}.",
            )
