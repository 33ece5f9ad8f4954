"""What the results say: one Markdown table a question, with intervals, from the saved outcomes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ganpo_core.statistics import wilson_interval
from ganpo_lab.comparisons import (
    NOT_ASKED,
    ON_OWN,
    against_reference,
    decisions,
    differences,
    differences_on_own,
    duels,
)
from ganpo_lab.configurations import REFERENCE
from ganpo_lab.evidence import AT_1, MATCHED, MATCHED_ON_OWN, Evidence, Numbers, Setting
from ganpo_lab.intervals import level, over_worlds
from ganpo_lab.markdown import Column, row_name, table
from ganpo_lab.measure import COLDER, TEMPERATURES

SIGNALS, COEFFICIENTS = ("critic", "reward model"), ("pearson", "spearman")
BUCKETS = 5
"""Of the length of an answer, equally many answers in each."""


SUMMARY = (
    *(Column(f"T=1 {name}", name, AT_1) for name in ("reward", "valid", "strict", "win", "LC", "length")),
    *(Column(f"matched {name}", name, MATCHED) for name in ("reward", "valid", "strict", "win", "LC")),
)

def summary(evidence: Evidence) -> list[str]:
    """Every row at T = 1 and at matched entropy, and the reference merely sampled colder."""
    header = ["row", "seeds", "tau", *(column.heading for column in SUMMARY), "KL", "latent"]
    lines = []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        if not seeds:
            lines.append([row_name(row), "0", *["not run"] + [""] * (len(header) - 3)])
            continue
        lines.append([row_name(row), str(len(seeds)), *_levels(evidence, row.name, seeds)])
        if row.name == REFERENCE:
            for temperature in sorted(COLDER, reverse=True):
                colder = Setting(1.0, colder=temperature)
                cells = [_level(evidence, REFERENCE, seeds, Column("", column.measure, colder)) for column in SUMMARY[:6]]
                lines.append([f"reference sampled at {temperature}", str(len(seeds)), "", *cells, *[""] * 5, "", ""])
    return table(header, lines)


def on_own(evidence: Evidence) -> list[str]:
    """Every row at the temperature that makes its own answers as random as the reference's own."""
    if not evidence.plan.protocol.match_on_own:
        return NOT_ASKED
    lines = []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        taus = [evidence.measured(row.name, seed, MATCHED_ON_OWN).temperature for seed in seeds]
        cells = [f"{np.mean(taus):.2f}", *(_level(evidence, row.name, seeds, column) for column in ON_OWN)] if seeds else []
        lines.append([row_name(row), str(len(seeds)), *(cells or ["not run", *[""] * len(ON_OWN)])])
    return table(["row", "seeds", "tau", *(column.heading for column in ON_OWN)], lines)


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
            lines.append([row_name(row), str(len(seeds)), "matched" if matched else "as it is", *cells])
        if row.name == REFERENCE and seeds:
            for temperature in sorted((*COLDER, 1.0), reverse=True):
                # Below T = 1 nothing needs it: all is nearly valid there.
                cells = [
                    _level(evidence, REFERENCE, seeds, Column("", name, Setting(at, colder=temperature)))
                    if at >= 1.0 and at > temperature
                    else ""
                    for name in ("win", "valid", "strict")
                    for at in TEMPERATURES
                ]
                lines.append([f"reference sampled at {temperature:g}", str(len(seeds)), "colder", *cells])
    return table(header, lines)


def keys(evidence: Evidence) -> list[str]:
    """Where a reward comes from: what a valid answer holds, and how long answers are; at T = 1 and at matched entropy."""
    names = ("loose", "right", "too many", "any too many", "length")
    lines = []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        if not seeds:
            continue
        settings: list[tuple[str, tuple[Setting, ...]]] = [(row_name(row), (AT_1, MATCHED))]
        if row.name == REFERENCE:
            colder = [Setting(1.0, colder=temperature) for temperature in sorted(COLDER, reverse=True)]
            settings = [(row_name(row), (AT_1,)), *((f"reference sampled at {each.colder}", (each,)) for each in colder)]
        for name, read in settings:
            cells = [cell for setting in read for cell in _held(evidence, row.name, seeds, setting)]
            lines.append([name, str(len(seeds)), *cells, *[""] * (2 * len(names) - len(cells))])
    return table(["row", "seeds", *(f"{read} {name}" for read in ("T=1", "matched") for name in names)], lines)


def margins(evidence: Evidence) -> list[str]:
    """C6: what the last tenth of training shows."""
    lines = []
    for row in evidence.plan.rows:
        curves = [found["training"][-1] for found in _results(evidence, row.name) if "training" in found]
        if curves:
            numbers = [np.array([curve[key] for curve in curves]) for key in ("rewards/margins", "rewards/accuracies")]
            shift = np.array([found["figures"]["shift"] for found in _results(evidence, row.name)])
            cells = [f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})" for values in (*numbers, shift)]
            lines.append([row_name(row), str(len(curves)), *cells])
    titles = ["row", "seeds", "reward margin, nats", "pairs ordered rightly", "held-out log-probability, nats a token"]
    return table(titles, lines)


def lengths(evidence: Evidence) -> list[str]:
    """C5: the win rate of answers by their own length, quintiles over all rows of the table.

    Wilson's 95 % intervals take answers, whose number follows them, as independent; the slope's is Student's, over worlds.
    """
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
        colder = [Setting(1.0, colder=temperature) for temperature in sorted(COLDER, reverse=True)]
        for setting in (AT_1, *colder) if row.name == REFERENCE else (AT_1, MATCHED):
            read = "matched" if setting.matched else f"T={setting.colder or 1:g}"
            length, win = (_stack(evidence, row.name, seeds, name, setting) for name in ("every_length", "every_win"))
            place = np.searchsorted(edges, length)
            cells = []
            for bucket in range(len(edges) + 1):
                inside = place == bucket
                if inside.sum() < 20:
                    cells.append(f"{int(inside.sum())} answers")
                    continue
                cells.append(f"{wilson_interval(win[inside])} ({int(inside.sum())})")
            slope = over_worlds([_slope(own.ravel(), won.ravel()) for own, won in zip(length, win, strict=True)])
            lines.append([row_name(row), read, *cells, slope.told(4)])
    return table(["row", "read", *(f"{head} tokens" for head in heads), "slope a token"], lines)


def correlations(evidence: Evidence) -> list[str]:
    """C4: how scores follow the oracle's reward at hot temperatures: means over seeds, each seed's value, and the difference."""
    lines = []
    for row in evidence.plan.rows:
        found = [entry for result in _results(evidence, row.name) for entry in result.get("correlations", ())]
        for at in sorted({entry["at"] for entry in found}):
            here = {name: [each for each in found if (each["at"], each["signal"]) == (at, name)] for name in SIGNALS}
            for signal, entries in here.items():
                values = [[entry[kind][0] for entry in entries if entry[kind]] for kind in COEFFICIENTS]
                cells = [f"{np.mean(each):+.3f} ({_listed(each)})" if each else "constant" for each in values]
                lines.append([row_name(row), f"{at:g}", signal, str(len(entries)), *cells])
            pairs = list(zip(*here.values(), strict=True))
            gaps = [[one[kind][0] - two[kind][0] for one, two in pairs if one[kind] and two[kind]] for kind in COEFFICIENTS]
            cells = [str(over_worlds(each)) if each else "constant" for each in gaps]
            lines.append([row_name(row), f"{at:g}", " - ".join(SIGNALS), str(len(pairs)), *cells])
    return table(["policy", "T", "score", "seeds", "Pearson (each seed)", "Spearman (each seed)"], lines)


KINDS: dict[str, Callable[[Evidence], list[str]]] = {
    "summary": summary,
    "differences": differences,
    "on_own": on_own,
    "differences_on_own": differences_on_own,
    "decisions": decisions,
    "duels": duels,
    "reference": against_reference,
    "keys": keys,
    "temperatures": temperatures,
    "margins": margins,
    "lengths": lengths,
    "correlations": correlations,
}


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)


def _slope(length: Numbers, win: Numbers) -> float:
    """Of the straight line of least squares; 0 where all lengths are one."""
    centred = length - length.mean()
    return float(centred @ win / max(float(centred @ centred), 1e-9))


def _levels(evidence: Evidence, row: str, seeds: Sequence[int]) -> Iterator[str]:
    yield f"{np.mean([evidence.measured(row, seed, MATCHED).temperature for seed in seeds]):.2f}"
    for column in SUMMARY:
        yield _level(evidence, row, seeds, column)
    for name, digits in (("divergence", 3), ("latent", 4)):
        values = [found["figures"][name] for found in _results(evidence, row)]
        yield f"{np.mean(values):.{digits}f}"


def _level(evidence: Evidence, row: str, seeds: Sequence[int], column: Column) -> str:
    digits = 1 if column.measure == "length" else 3
    return f"{np.mean([level(evidence, row, seed, column.measure, column.setting) for seed in seeds]):.{digits}f}"


def _held(evidence: Evidence, row: str, seeds: Sequence[int], setting: Setting) -> list[str]:
    """Loose of all answers; of valid ones the share of right values, keys too many, and how many have any; tokens."""
    reward, extra, cover = (
        _stack(evidence, row, seeds, f"every_{name}", setting) for name in ("reward", "extra", "cover")
    )
    valid = np.maximum((reward > 0).sum(), 1)
    shares = (cover.sum() / valid, extra.sum() / valid, (extra > 0).sum() / valid)
    ends = [_level(evidence, row, seeds, Column("", name, setting)) for name in ("loose", "length")]
    return [ends[0], *(f"{share:.3f}" for share in shares), ends[1]]


def _stack(evidence: Evidence, row: str, seeds: Sequence[int], measure: str, setting: Setting) -> Numbers:
    """[S, P]."""
    return np.stack([getattr(evidence.measured(row, seed, setting), measure) for seed in seeds])


def _results(evidence: Evidence, row: str) -> list[dict[str, Any]]:
    found = [evidence.result(row, seed) for seed in evidence.seeds(row)]
    return [result for result in found if result is not None]

