"""`ganpo evaluate alpaca`: win rate, length-controlled win rate and length (the paper's Table 1)."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ganpo_core import DataError, Judge, statistics
from ganpo_evaluation.alpaca import Annotations, length_controlled, read_annotations
from ganpo_evaluation.asking import asked
from ganpo_evaluation.paper import SLIP_NOTE, SOURCE_NOTE, TABLE_1
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.texts import Answer, names_apart, prompt_key, read_answers, read_text, short_paths, text_of

OWN_NOTE = (
    "LC, own form: our regression on length alone; not the leaderboard's, and unsure where lengths differ much or wins are "
    "few. Give --gamed df_gamed.csv (of the data set tatsu-lab/alpaca_eval) for AlpacaEval's length_controlled_v1."
)


def from_annotations(paths: Sequence[Path], gamed: Path | None, leaderboard: Path | None, seed: int) -> Result:
    """Win rates recomputed from AlpacaEval's annotation files."""
    facts = {"annotations": list(map(str, paths))}
    return _result([read_annotations(path) for path in paths], paths, gamed, leaderboard, seed, facts)


def from_outputs(
    paths: Sequence[Path], baseline: Path, judge: Judge, name: str, gamed: Path | None, leaderboard: Path | None, seed: int
) -> Result:
    """Win rates of outputs over a baseline's outputs on the same instructions, by a judge."""
    facts = {"outputs": list(map(str, paths)), "baseline": str(baseline)}
    return _result(judged(paths, baseline, judge, name), paths, gamed, leaderboard, seed, facts)


def judged(paths: Sequence[Path], baseline: Path, judge: Judge, name: str) -> list[Annotations]:
    """What an annotation file would hold, by a judge's scores of both sides.

    An instruction that comes several times meets the baseline's outputs for it in turn.
    """
    score = asked(judge)
    theirs: dict[str, list[Answer]] = {}
    for answer in read_answers(baseline):
        theirs.setdefault(prompt_key(answer.instruction), []).append(answer)
    found = []
    base_scores: dict[int, float] = {}
    for path in paths:
        answers = read_answers(path)
        rivals = _rivals(answers, theirs, baseline)
        scores = score([answer.instruction for answer in answers], [answer.output for answer in answers])
        if judge.scores_are_wins:
            wins = np.asarray(scores)
        else:
            new = list({id(rival): rival for rival in rivals if id(rival) not in base_scores}.values())
            values = score([rival.instruction for rival in new], [rival.output for rival in new])
            base_scores |= dict(zip(map(id, new), values, strict=True))
            wins = statistics.win_shares(scores, [base_scores[id(rival)] for rival in rivals])
        found.append(
            Annotations(
                model=_one_generator(answers, path),
                baseline=_one_generator(rivals, baseline),
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


def _rivals(answers: Sequence[Answer], theirs: Mapping[str, Sequence[Answer]], baseline: Path) -> list[Answer]:
    met: Counter[str] = Counter()
    found = []
    for answer in answers:
        key = prompt_key(answer.instruction)
        if key not in theirs:
            raise DataError(f"{baseline}: no output for the instruction {text_of(answer.instruction)[:60]!r}")
        found.append(theirs[key][min(met[key], len(theirs[key]) - 1)])
        met[key] += 1
    return found


def _one_generator(answers: Sequence[Answer], path: Path) -> str:
    names = dict.fromkeys(answer.generator for answer in answers)
    if len(names) > 1:
        raise DataError(f"{path}: outputs not of one model but of {', '.join(names)}; split the file")
    return next(iter(names))


def _result(
    found: Sequence[Annotations],
    paths: Sequence[Path],
    gamed: Path | None,
    leaderboard: Path | None,
    seed: int,
    facts: dict[str, Any],
) -> Result:
    published = _published(leaderboard) if leaderboard is not None else {}
    rows: list[Row] = []
    notes = [SOURCE_NOTE, SLIP_NOTE]
    names = names_apart([each.model for each in found], short_paths(paths))
    for each, name in zip(found, names, strict=True):
        form, controlled = length_controlled(each, gamed)
        if form == "own" and OWN_NOTE not in notes:
            notes.insert(0, OWN_NOTE)
        zeros = [0.0] * len(each.wins)
        interval = statistics.paired_difference([each.wins], [zeros], seed=seed)
        row: dict[str, str | float | int | None] = {
            "model": name,
            "win rate": 100 * interval.estimate,
            "low": 100 * interval.low,
            "high": 100 * interval.high,
            "SE": 100 * float(np.std(each.wins, ddof=1)) / math.sqrt(len(each.wins)) if len(each.wins) > 1 else None,
            "LC win rate": 100 * controlled.rate if form == "length_controlled_v1" else None,
            "LC, own form": 100 * controlled.rate if form == "own" else None,
            "length": int(np.mean(each.lengths)),
            "answers": len(each.wins),
        }
        notes.append(f"{name}: against {each.baseline}, judged by {each.annotator}")
        if each.skipped:
            notes.append(f"{name}: {each.skipped} rows have no preference and are left out")
        if each.doubtful:
            notes.append(
                f"{name}: every preference is 0 or 1, which AlpacaEval writes for a tie and a loss; to wins in 0 to 1, add 1"
            )
        if each.model in published:
            row |= published[each.model]
        elif leaderboard is not None:
            notes.append(f"{leaderboard} has no row for '{each.model}'")
        rows.append(row)
    return Result("alpaca", "AlpacaEval: win rates in %, length in characters", rows, TABLE_1, notes, facts=facts)


def _published(path: Path) -> dict[str, dict[str, float]]:
    """A leaderboard's figures by model."""
    table = csv.DictReader(io.StringIO(read_text(path)))
    if not table.fieldnames or "win_rate" not in table.fieldnames:
        raise DataError(f"{path}: no leaderboard: a CSV file with models in its first column and a column win_rate was expected")
    models = table.fieldnames[0]
    columns = {"win_rate": "published win rate", "length_controlled_winrate": "published LC", "avg_length": "published length"}
    return {
        row[models]: {ours: number for theirs, ours in columns.items() if (number := _figure(row.get(theirs))) is not None}
        for row in table
    }


def _figure(cell: str | None) -> float | None:
    """A cell's number; None where it holds none."""
    try:
        return float(cell or "")
    except ValueError:
        return None


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
