"""What the results say: one Markdown table a question, with intervals, from the saved outcomes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ganpo_core.statistics import wilson_interval
from ganpo_lab.configurations import REFERENCE, Configuration
from ganpo_lab.evidence import Evidence, Numbers, Setting
from ganpo_lab.intervals import Replicates, controlled, holm
from ganpo_lab.measure import COLDER, TEMPERATURES

AT_1, MATCHED = Setting(1.0), Setting(1.0, matched=True)
BUCKETS = 5
"""Of the length of an answer, equally many answers in each."""


@dataclass(frozen=True)
class Column:
    """A number of a row: its heading, what it is of, and at which setting."""

    heading: str
    measure: str
    setting: Setting


SUMMARY = (
    *(Column(f"T=1 {name}", name, AT_1) for name in ("reward", "valid", "strict", "win", "LC", "length")),
    *(Column(f"matched {name}", name, MATCHED) for name in ("reward", "valid", "strict", "win", "LC")),
)
DIFFERENCES = (
    Column("T=0.7 reward", "reward", Setting(0.7)),
    Column("T=0.7 LC", "LC", Setting(0.7)),
    Column("T=1 reward", "reward", AT_1),
    Column("T=1 strict", "strict", AT_1),
    Column("T=1 LC", "LC", AT_1),
    Column("matched reward", "reward", MATCHED),
    Column("matched strict", "strict", MATCHED),
    Column("matched LC", "LC", MATCHED),
)
PRIMARY = (DIFFERENCES[6], DIFFERENCES[7])
"""What decides a comparison; corrected together for all comparisons of a table."""


def summary(evidence: Evidence) -> list[str]:
    """Every row at T = 1 and at matched entropy, and the reference merely sampled colder."""
    header = ["row", "seeds", "tau", *(column.heading for column in SUMMARY), "KL", "latent"]
    lines = []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        if not seeds:
            lines.append([_name(row), "0", *["not run"] + [""] * (len(header) - 3)])
            continue
        lines.append([_name(row), str(len(seeds)), *_levels(evidence, row.name, seeds)])
        if row.name == REFERENCE:
            for temperature in sorted(COLDER, reverse=True):
                colder = Setting(1.0, colder=temperature)
                cells = [_level(evidence, REFERENCE, seeds, Column("", column.measure, colder)) for column in SUMMARY[:6]]
                lines.append([f"reference sampled at {temperature}", str(len(seeds)), "", *cells, *[""] * 5, "", ""])
    return _table(header, lines)


def differences(evidence: Evidence) -> list[str]:
    """The paired differences that a table asks for, with 95 % intervals; `*` where Holm's adjusted chance is below 0.05."""
    header = ["A - B", "seeds", *(column.heading for column in DIFFERENCES)]
    found = [(pair, evidence.seeds(*pair)) for pair in evidence.plan.compare]
    replicates = Replicates(evidence)
    made = {
        (pair, column): replicates.difference(*pair, column.measure, column.setting)
        for pair, seeds in found
        if seeds
        for column in DIFFERENCES
    }
    decided = [(pair, column) for pair, column in made if column in PRIMARY]
    adjusted = dict(zip(decided, holm([made[key].chance for key in decided]), strict=True))
    lines = []
    for pair, seeds in found:
        name = " - ".join(f"`{row}`" for row in pair)
        if not seeds:
            lines.append([name, "0", "not run", *[""] * (len(DIFFERENCES) - 1)])
            continue
        cells = []
        for column in DIFFERENCES:
            star = "*" if adjusted.get((pair, column), 1.0) < 0.05 else ""
            cells.append(f"{made[pair, column]}{star}")
        lines.append([name, str(len(seeds)), *cells])
    return _table(header, lines)


def against_reference(evidence: Evidence) -> list[str]:
    """Every row at matched entropy minus the reference at T = 1, on the same noise."""
    columns = [Column(f"matched {name}", name, MATCHED) for name in ("reward", "valid", "strict")]
    replicates, lines = Replicates(evidence), []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        if row.name == REFERENCE or not seeds:
            continue
        cells = [str(replicates.difference(row.name, REFERENCE, column.measure, MATCHED)) for column in columns]
        lines.append([_name(row), str(len(seeds)), *cells])
    return _table(["row - reference", "seeds", *(column.heading for column in columns)], lines)


def temperatures(evidence: Evidence) -> list[str]:
    """Win rate, validity and strictness at every temperature, as it is and at matched entropy."""
    header = ["row", "seeds", "read", *(f"T={at} {name}" for name in ("win", "valid", "strict") for at in TEMPERATURES)]
    lines = []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        for matched in (False, True) if seeds and row.name != REFERENCE else (False,) if seeds else ():
            cells = [
                _level(evidence, row.name, seeds, Column("", name, Setting(at, matched)))
                for name in ("win", "valid", "strict")
                for at in TEMPERATURES
            ]
            lines.append([_name(row), str(len(seeds)), "matched" if matched else "as it is", *cells])
        if row.name == REFERENCE and seeds:
            for temperature in sorted(COLDER, reverse=True):
                colder = Setting(1.0, colder=temperature)
                cells = [
                    _level(evidence, REFERENCE, seeds, Column("", name, colder)) if at == 1.0 else ""
                    for name in ("win", "valid", "strict")
                    for at in TEMPERATURES
                ]
                lines.append([f"reference sampled at {temperature}", str(len(seeds)), "colder", *cells])
    return _table(header, lines)


def margins(evidence: Evidence) -> list[str]:
    """C6: what the last tenth of training shows."""
    lines = []
    for row in evidence.plan.rows:
        curves = [found["training"][-1] for found in _results(evidence, row.name) if "training" in found]
        if curves:
            numbers = [np.array([curve[key] for curve in curves]) for key in ("rewards/margins", "rewards/accuracies")]
            shift = np.array([found["figures"]["shift"] for found in _results(evidence, row.name)])
            cells = [f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})" for values in (*numbers, shift)]
            lines.append([_name(row), str(len(curves)), *cells])
    titles = ["row", "seeds", "reward margin, nats", "pairs ordered rightly", "held-out log-probability, nats a token"]
    return _table(titles, lines)


def lengths(evidence: Evidence) -> list[str]:
    """C5: the win rate of answers by their own length, quintiles over all rows of the table, with 95 % intervals."""
    rows = [(row, evidence.seeds(row.name)) for row in evidence.plan.rows]
    rows = [(row, seeds) for row, seeds in rows if seeds]
    if not rows:
        return ["not run"]
    every = np.concatenate([_stack(evidence, row.name, seeds, "every_length", AT_1).ravel() for row, seeds in rows])
    edges = np.unique(np.quantile(every, np.linspace(0, 1, BUCKETS + 1)[1:-1]))
    bounds = ["up to", *["to"] * (len(edges) - 1), "above"]
    heads = [f"{word} {edge:g}" for word, edge in zip(bounds, (*edges, edges[-1]), strict=True)]
    lines = []
    for row, seeds in rows:
        for setting, read in ((AT_1, "T=1"), (MATCHED, "matched")):
            if setting.matched and row.name == REFERENCE:
                continue
            length, win = (_stack(evidence, row.name, seeds, name, setting) for name in ("every_length", "every_win"))
            place = np.searchsorted(edges, length)
            cells = []
            for bucket in range(len(edges) + 1):
                inside = place == bucket
                if inside.sum() < 20:
                    cells.append(f"{int(inside.sum())} answers")
                    continue
                cells.append(str(wilson_interval(win[inside])))
            slope = _slope(length.ravel(), win.ravel())
            lines.append([_name(row), read, *cells, f"{slope:+.4f}"])
    return _table(["row", "read", *(f"{head} tokens" for head in heads), "slope a token"], lines)


def correlations(evidence: Evidence) -> list[str]:
    """C4: how scores follow the oracle's reward at hot temperatures: the mean over seeds, and each seed's value."""
    lines = []
    for row in evidence.plan.rows:
        found = [entry for result in _results(evidence, row.name) for entry in result.get("correlations", ())]
        for at in sorted({entry["at"] for entry in found}):
            for signal in ("critic", "reward model"):
                here = [entry for entry in found if (entry["at"], entry["signal"]) == (at, signal)]
                cells = []
                for kind in ("pearson", "spearman"):
                    values = [entry[kind][0] for entry in here if entry[kind]]
                    each = ", ".join(f"{value:+.2f}" for value in values)
                    cells.append(f"{np.mean(values):+.3f} ({each})" if values else "constant")
                lines.append([_name(row), f"{at:g}", signal, str(len(here)), *cells])
    return _table(["policy", "T", "score", "seeds", "Pearson (each seed)", "Spearman (each seed)"], lines)


KINDS: dict[str, Callable[[Evidence], list[str]]] = {
    "summary": summary,
    "differences": differences,
    "reference": against_reference,
    "temperatures": temperatures,
    "margins": margins,
    "lengths": lengths,
    "correlations": correlations,
}


def _slope(length: Numbers, win: Numbers) -> float:
    """Of the straight line of least squares; 0 where all lengths are one."""
    centred = length - length.mean()
    return float(centred @ win / max(float(centred @ centred), 1e-9))


def _name(row: Configuration) -> str:
    return f"`{row.name}` {row.label}"


def _levels(evidence: Evidence, row: str, seeds: Sequence[int]) -> Iterator[str]:
    yield f"{np.mean([evidence.measured(row, seed, MATCHED).temperature for seed in seeds]):.2f}"
    for column in SUMMARY:
        yield _level(evidence, row, seeds, column)
    for name, digits in (("divergence", 3), ("latent", 4)):
        values = [found["figures"][name] for found in _results(evidence, row)]
        yield f"{np.mean(values):.{digits}f}"


def _level(evidence: Evidence, row: str, seeds: Sequence[int], column: Column) -> str:
    if column.measure == "LC":
        rates = [controlled(evidence, row, seed, column.setting) for seed in seeds]
        return f"{np.mean(rates):.3f}"
    digits = 1 if column.measure == "length" else 3
    return f"{_stack(evidence, row, seeds, column.measure, column.setting).mean():.{digits}f}"


def _stack(evidence: Evidence, row: str, seeds: Sequence[int], measure: str, setting: Setting) -> Numbers:
    """[S, P]."""
    return np.stack([getattr(evidence.measured(row, seed, setting), measure) for seed in seeds])


def _results(evidence: Evidence, row: str) -> list[dict[str, Any]]:
    found = [evidence.result(row, seed) for seed in evidence.seeds(row)]
    return [result for result in found if result is not None]


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *(f"| {' | '.join(line)} |" for line in lines)]
