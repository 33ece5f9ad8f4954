"""`ganpo evaluate ifeval`: four accuracies of each file of responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganpo_core import statistics
from ganpo_evaluation.ifeval import accuracies, load_checkers
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.texts import names_apart, prompt_key, read_answers, read_rows, short_paths, text_of

MEASURES = ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose")


def from_responses(paths: Sequence[Path], data: Path) -> Result:
    """Strict and loose, for prompts and for single instructions, in %, with Wilson's intervals."""
    follows = load_checkers(data)
    asked = len({prompt_key(str(row["prompt"])) for row in read_rows(data)})
    rows: list[Row] = []
    notes = ["strict: the response as it stands; loose: also without its first line, last line or asterisks."]
    for path, name in zip(paths, names_apart([path.stem for path in paths], short_paths(paths)), strict=True):
        answers = read_answers(path)
        found = [follows(text_of(answer.instruction), answer.output) for answer in answers]
        row: dict[str, str | float | int | None] = {"responses": name, "prompts": len(answers)}
        for measure, flags in accuracies(found).items():
            interval = statistics.wilson_interval(flags)
            told = measure.replace("_", " ")
            row |= {told: 100 * interval.estimate, f"{told} low": 100 * interval.low, f"{told} high": 100 * interval.high}
        rows.append(row)
        answered = len({prompt_key(answer.instruction) for answer in answers})
        if answered != asked:
            notes.append(f"{name}: {answered} of {asked} prompts have a response; the others are not counted")
        if answered != len(answers):
            notes.append(f"{name}: {len(answers)} responses to {answered} prompts; each of them counts")
    return Result("ifeval", "IFEval: accuracies in %", rows, (), notes, facts={"data": str(data)})


def draw(result: Result, figure: Any) -> None:
    """Four bars for each file."""
    axes = figure.subplots()
    width = 0.8 / max(1, len(result.rows))
    for index, row in enumerate(result.rows):
        heights = [row[name.replace("_", " ")] for name in MEASURES]
        axes.bar([place + index * width for place in range(len(MEASURES))], heights, width, label=str(row["responses"]))
    axes.set(xticks=[place + 0.4 - width / 2 for place in range(len(MEASURES))], ylabel="accuracy, %", ylim=(0, 100))
    axes.set_xticklabels([name.replace("_", " ") for name in MEASURES])
    axes.legend(frameon=False)
    axes.grid(axis="y", alpha=0.3)
