"""AlpacaEval 2: wins from annotation files, length control, and the annotator through the `alpaca_eval` package."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ganpo_core import DataError, GanpoError, Judge, Prompt, Scorer, statistics
from ganpo_evaluation.texts import prompt_key, read_answers, read_rows, read_text, text_of

NEEDED = ("preference", "output_1", "output_2", "generator_1", "generator_2")


@dataclass(frozen=True)
class Annotations:
    """A model's responses beside the baseline's, with an annotator's preferences."""

    model: str
    baseline: str
    annotator: str
    wins: tuple[float, ...]
    """1 where the model's response is preferred, 0 where the baseline's is."""
    lengths: tuple[int, ...]
    """Characters of the model's responses."""
    base_lengths: tuple[int, ...]
    skipped: int
    """Rows without a preference."""
    doubtful: bool = False
    """Whether all preferences are 0 or 1: ties and losses as AlpacaEval writes them, or wins of somebody else's."""


def read_annotations(path: Path) -> Annotations:
    """AlpacaEval's annotations: `preference` in [1, 2], 2 for `output_2`, the model's; 0 means a tie."""
    rows = read_rows(path, NEEDED)
    names = {key: {str(row[key]) for row in rows} for key in ("generator_1", "generator_2")}
    for key, found in names.items():
        if len(found) > 1:
            raise DataError(f"{path}: {key} is not one model but {', '.join(sorted(found))}; split the file")
    for index, row in enumerate(rows):
        for key in ("output_1", "output_2"):
            if not isinstance(row[key], str):
                raise DataError(f"{path}: row {index}: {key} is {row[key]!r}, not text")
    preferences = [_preference(row["preference"], index, path) for index, row in enumerate(rows)]
    rated = [(row, value) for row, value in zip(rows, preferences, strict=True) if value is not None]
    if not rated:
        raise DataError(f"{path}: no row has a preference")
    values = [value for _, value in rated]
    return Annotations(
        model=names["generator_2"].pop(),
        baseline=names["generator_1"].pop(),
        annotator=str(rows[0].get("annotator", "unknown")),
        wins=tuple(map(_win, values)),
        lengths=tuple(len(str(row["output_2"])) for row, _ in rated),
        base_lengths=tuple(len(str(row["output_1"])) for row, _ in rated),
        skipped=len(rows) - len(rated),
        doubtful=set(values) == {0.0, 1.0},
    )


def _preference(value: object, index: int, path: Path) -> float | None:
    """A preference as AlpacaEval has it, in 1 to 2 or 0; None where the row has none."""
    if value is None or value == "":
        return None
    try:
        number = math.inf if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.inf
    if math.isnan(number):
        return None
    if number != 0 and not 1 <= number <= 2:
        raise DataError(
            f"{path}: row {index}: a preference is {value!r}; AlpacaEval writes 1 (output_1) to 2 (output_2), and 0 for a "
            "tie; to wins in 0 to 1, add 1"
        )
    return number


def _win(preference: float) -> float:
    return 0.5 if preference == 0 else preference - 1


def read_gamed(path: Path) -> tuple[statistics.GamedRows, list[float]]:
    """AlpacaEval's `df_gamed.csv`: the rows that its regression is held to, and each instruction's difficulty."""
    rows = list(csv.DictReader(io.StringIO(read_text(path))))
    needed = {"preference", "std_delta_len", "instruction_difficulty", "index"}
    if not rows or not needed <= set(rows[0]):
        raise DataError(f"{path}: expected a CSV file with the columns {', '.join(sorted(needed))}")

    def column(name: str) -> Any:
        try:
            return np.array([float(row[name]) for row in rows])
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: column {name}: {error}") from error

    difficulty: dict[int, float] = {}
    for row in rows:
        difficulty.setdefault(int(float(row["index"])), float(row["instruction_difficulty"]))
    gamed = statistics.GamedRows(column("preference"), column("std_delta_len"), column("instruction_difficulty"))
    return gamed, [difficulty[index] for index in sorted(difficulty)]


def length_controlled(found: Annotations, gamed: Path | None) -> tuple[str, statistics.LengthControlled]:
    """The form that could be computed, and its win rate: AlpacaEval's own needs its gamed baselines, else it is ours."""
    if found.model == found.baseline:
        return "length_controlled_v1", statistics.LengthControlled(0.5, 0.0, ())
    if gamed is None:
        return "own", statistics.length_controlled(found.wins, found.lengths, found.base_lengths)
    rows, difficulties = read_gamed(gamed)
    if len(difficulties) != len(found.wins) or found.skipped:
        raise DataError(
            f"{gamed}: difficulties of {len(difficulties)} instructions for {len(found.wins)} annotated rows; "
            "AlpacaEval's own form needs all 805 rows in AlpacaEval's order"
        )
    made = statistics.alpaca_length_controlled(found.wins, found.lengths, found.base_lengths, difficulties, rows)
    return "length_controlled_v1", made


@dataclass(frozen=True)
class AlpacaEval(Judge):
    """An AlpacaEval annotator's preference for a response over a baseline's, in [0, 1], through the `alpaca_eval` package."""

    scores_are_wins: ClassVar[bool] = True

    baseline: str
    """The baseline's outputs in AlpacaEval's format, one for each instruction."""
    annotator: str = "weighted_alpaca_eval_gpt4_turbo"
    """An `annotators_config` of alpaca_eval: a name, or a folder. Most call a service, which needs a key and costs money."""

    def build(self) -> Scorer:
        """The scorer. Raises GanpoError where the package is not installed or an instruction has no baseline output."""
        baseline = {prompt_key(answer.instruction): answer for answer in read_answers(Path(self.baseline))}
        package = load_package()

        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            if not prompts:
                return []
            texts = [text_of(prompt) for prompt in prompts]
            missing = [text for text in texts if prompt_key(text) not in baseline]
            if missing:
                raise DataError(f"{self.baseline}: no output for the instruction {missing[0][:60]!r}")
            mine = [
                {"instruction": text, "output": output, "generator": "judged"}
                for text, output in zip(texts, responses, strict=True)
            ]
            theirs = [{**row, "output": baseline[prompt_key(row["instruction"])].output, "generator": "baseline"} for row in mine]
            _, annotations = package.evaluate(
                model_outputs=mine, reference_outputs=theirs, annotators_config=self.annotator,
                is_return_instead_of_print=True, fn_metric="get_winrate", output_path=None, precomputed_leaderboard=None,
            )
            wins = {row["instruction"]: row["preference"] for row in annotations}
            return [_win(float(wins[text])) for text in texts]

        return score

    def samples(self) -> Sequence[tuple[Prompt, str]]:
        """The baseline's first instructions, answered with one word."""
        return [(answer.instruction, "Yes.") for answer in read_answers(Path(self.baseline))[:3]]


def load_package() -> Any:
    """The alpaca_eval package. Raises GanpoError where it is not installed, or does not import."""
    try:
        import alpaca_eval
    except ImportError as error:
        raise GanpoError(
            f"judge 'alpaca_eval' needs the package of that name ({error}); install it with `pip install 'ganpo[alpaca]'`"
        ) from error
    return alpaca_eval
