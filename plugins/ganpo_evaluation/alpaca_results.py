"""`ganpo evaluate alpaca`: win rate, length-controlled win rate and length (the paper's Table 1)."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganpo_core import DataError, Judge, statistics
from ganpo_evaluation.alpaca import Annotations, length_controlled, read_annotations
from ganpo_evaluation.paper import SLIP_NOTE, SOURCE_NOTE, TABLE_1
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.texts import Answer, read_answers, text_of

OWN_NOTE = (
    "LC, own form: our regression on length alone; not the leaderboard's, and unsure where lengths differ much or wins are "
    "few. Give --gamed df_gamed.csv (of the data set tatsu-lab/alpaca_eval) for AlpacaEval's length_controlled_v1."
)


def from_annotations(paths: Sequence[Path], gamed: Path | None, leaderboard: Path | None, seed: int) -> Result:
    """Win rates recomputed from AlpacaEval's annotation files."""
    return _result([read_annotations(path) for path in paths], gamed, leaderboard, seed, {"annotations": list(map(str, paths))})


def from_outputs(paths: Sequence[Path], baseline: Path, judge: Judge, name: str, gamed: Path | None, seed: int) -> Result:
    """Win rates of outputs over a baseline's outputs on the same instructions, by a judge."""
    facts = {"outputs": list(map(str, paths)), "baseline": str(baseline)}
    return _result(judged(paths, baseline, judge, name), gamed, None, seed, facts)


def judged(paths: Sequence[Path], baseline: Path, judge: Judge, name: str) -> list[Annotations]:
    """What an annotation file would hold, by a judge's scores of both sides."""
    score = judge.build()
    theirs = {text_of(answer.instruction): answer for answer in read_answers(baseline)}
    found = []
    base_scores: dict[str, float] = {}
    for path in paths:
        answers = read_answers(path)
        rivals = [_rival(answer, theirs, baseline) for answer in answers]
        scores = score([answer.instruction for answer in answers], [answer.output for answer in answers])
        if judge.scores_are_wins:
            wins = np.asarray(scores)
        else:
            new = [rival for rival in rivals if text_of(rival.instruction) not in base_scores]
            values = score([rival.instruction for rival in new], [rival.output for rival in new])
            base_scores |= dict(zip((text_of(rival.instruction) for rival in new), values, strict=True))
            wins = statistics.win_shares(scores, [base_scores[text_of(rival.instruction)] for rival in rivals])
        found.append(
            Annotations(
                model=answers[0].generator,
                baseline=rivals[0].generator,
                annotator=name,
                wins=tuple(map(float, wins)),
                lengths=tuple(len(answer.output) for answer in answers),
                base_lengths=tuple(len(rival.output) for rival in rivals),
                skipped=0,
            )
        )
    return found


def draw(result: Result, figure: Any) -> None:
    """Win rate and length-controlled win rate, ours beside the paper's."""
    axes = figure.subplots()
    rows = [*((row, "tab:blue", str(row["model"])) for row in result.rows)]
    rows += [(row, "lightgray", f"{row['model']} (paper)") for row in result.paper]
    for place, (row, colour, _) in enumerate(rows):
        axes.barh(place - 0.2, _number(row, "win rate"), 0.38, color=colour, edgecolor="black", linewidth=0.5)
        axes.barh(place + 0.2, _number(row, "LC win rate"), 0.38, color=colour, edgecolor="black", linewidth=0.5, hatch="///")
    axes.set(yticks=range(len(rows)), yticklabels=[label for _, _, label in rows], xlabel="% (plain: win rate; hatched: LC)")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _rival(answer: Answer, theirs: dict[str, Answer], baseline: Path) -> Answer:
    text = text_of(answer.instruction)
    if text not in theirs:
        raise DataError(f"{baseline}: no output for the instruction {text[:60]!r}")
    return theirs[text]


def _result(
    found: Sequence[Annotations], gamed: Path | None, leaderboard: Path | None, seed: int, facts: dict[str, Any]
) -> Result:
    published = _published(leaderboard) if leaderboard is not None else {}
    rows: list[Row] = []
    notes = [SOURCE_NOTE, SLIP_NOTE]
    for each in found:
        form, controlled = length_controlled(each, gamed)
        if form == "own" and OWN_NOTE not in notes:
            notes.insert(0, OWN_NOTE)
        zeros = [0.0] * len(each.wins)
        interval = statistics.paired_difference([each.wins], [zeros], seed=seed)
        row: dict[str, str | float | int | None] = {
            "model": each.model,
            "win rate": 100 * interval.estimate,
            "low": 100 * interval.low,
            "high": 100 * interval.high,
            "SE": 100 * float(np.std(each.wins, ddof=1)) / math.sqrt(len(each.wins)) if len(each.wins) > 1 else None,
            "LC win rate": 100 * controlled.rate if form == "length_controlled_v1" else None,
            "LC, own form": 100 * controlled.rate if form == "own" else None,
            "length": int(np.mean(each.lengths)),
            "answers": len(each.wins),
        }
        notes.append(f"{each.model}: against {each.baseline}, judged by {each.annotator}")
        if each.model in published:
            row |= published[each.model]
        elif leaderboard is not None:
            notes.append(f"{leaderboard} has no row for '{each.model}'")
        rows.append(row)
    return Result("alpaca", "AlpacaEval: win rates in %, length in characters", rows, TABLE_1, notes, facts=facts)


def _published(path: Path) -> dict[str, dict[str, float]]:
    """A leaderboard's figures by model."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row[""]: row for row in csv.DictReader(file)}
    columns = {"win_rate": "published win rate", "length_controlled_winrate": "published LC", "avg_length": "published length"}
    return {
        name: {ours: float(row[theirs]) for theirs, ours in columns.items() if row.get(theirs)} for name, row in rows.items()
    }


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
