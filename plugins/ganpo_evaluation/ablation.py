"""`ganpo ablate`: every combination of a grid of options, trained once and judged alike, in one table (Table 3)."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from ganpo_core import ConfigError, GanpoError, NonNegativeFloat, NonNegativeInt, PositiveInt, first_line
from ganpo_core.components import OPTIONS
from ganpo_evaluation.results import Result, Row

app = typer.Typer()
SHOWN = ("loss", "rewards/margins", "rewards/accuracies", "eval_rewards/accuracies", "adversary/penalty")
"""Of a run's last metrics."""
HIDDEN = frozenset({"error", "entropy", "score interval", "win interval", "adversary/penalty"})
"""Columns for which the table has no room."""


@dataclass(frozen=True)
class Judging:
    """How every policy of the table is judged."""

    __pydantic_config__ = OPTIONS

    judge: Mapping[str, Any]
    """`use:` and its options."""
    prompts: str
    """A file of prompts."""
    temperatures: tuple[NonNegativeFloat, ...] = (0.7, 1.0)
    """Those from 1 on also at the reference's entropy."""
    limit: PositiveInt | None = None
    """Only the first so many prompts."""
    entropy_data: str | None = None
    """Preference pairs to measure entropy on; by default the base run's."""
    max_new_tokens: PositiveInt = 512
    batch_size: PositiveInt = 16
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Grid:
    """A table of runs that differ from one run file."""

    __pydantic_config__ = OPTIONS

    base: str
    """The run file that all runs start from; relative to this one, as every path here."""
    output_dir: str
    """Holds a folder for each run, and the table."""
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Options, as on the command line of `ganpo train`, and their values: every combination is a run."""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Named sets of options; each is combined with the grid."""
    judging: Judging | None = None
    """How policies are judged; without it the table holds the runs' last metrics alone."""


@app.command()
def ablate(
    grid: Annotated[Path, typer.Argument(help="The grid's YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="For every run: key=value, such as training.max_steps=20")] = None,
    only: Annotated[str | None, typer.Option(help="Only runs with this in their name.")] = None,
) -> None:
    """Train every run of a grid, judge each policy alike, and write one table. Stop and start again as you like."""
    from ganpo_evaluation.results import show

    read = read_grid(grid)
    result, failed = run_grid(read, grid.resolve().parent, overrides or (), only, partial(print, flush=True))
    show(result, grid.resolve().parent / read.output_dir, partial(draw, result))
    if failed:
        raise typer.Exit(1)


def read_grid(path: Path) -> Grid:
    """Raises ConfigError with every mistake."""
    from ganpo_core.config.document import read_document
    from ganpo_core.options import validate

    return validate(Grid, read_document(path).data, path.name)


def combinations(grid: Grid) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, options) of every run."""
    for row, options in (grid.rows or {"": {}}).items():
        for values in itertools.product(*grid.grid.values()):
            chosen = dict(zip(grid.grid, values, strict=True))
            clash = set(chosen) & set(options)
            if clash:
                raise ConfigError(f"rows.{row}: {', '.join(sorted(clash))} is in the grid too; keep one")
            parts = [*([row] if row else []), *(f"{key}={_said(value)}" for key, value in chosen.items())]
            yield ",".join(parts) or "base", {**options, **chosen}


def run_grid(
    grid: Grid, folder: Path, overrides: Sequence[str], only: str | None, say: Callable[[str], None]
) -> tuple[Result, list[str]]:
    """The table, and the names of runs that failed; those stand in it with their error."""
    from ganpo_core import train
    from ganpo_core.config.document import split_override

    root = folder / grid.output_dir
    everywhere = dict(map(split_override, overrides))
    wanted = [(name, options) for name, options in combinations(grid) if only is None or only in name]
    if not wanted:
        raise ConfigError(f"--only: no run has '{only}' in its name")
    rows: list[Row] = []
    failed: list[str] = []
    judged = _judge_of(grid, folder, say)
    for name, options in wanted:
        run = root / re.sub(r"[^\w.=,+-]", "_", name)
        say(f"{name}: {run}")
        try:
            train(folder / grid.base, {**options, **everywhere, "output_dir": str(run)}, resume=run.exists())
            settings = {key: _said(value) for key, value in options.items() if key in grid.grid}
            rows += [{"run": name, **settings, **metrics} for metrics in judged(run)]
        except GanpoError as error:
            failed.append(name)
            say(f"{name}: failed: {error}")
            rows.append({"run": name, "error": first_line(error)})
    notes = [f"{row['run']} failed: {row['error']}" for row in rows if "error" in row]
    if grid.judging is not None:
        from ganpo_evaluation.sweep import NOTES

        notes += NOTES
    facts = {"grid": asdict(grid), "overrides": everywhere}
    return Result("ablation", f"Ablation of {Path(grid.base).name}", rows, (), notes, HIDDEN, facts), failed


def _judge_of(grid: Grid, folder: Path, say: Callable[[str], None]) -> Callable[[Path], list[dict[str, Any]]]:
    """What the table holds of a finished run; judged once, and kept beside the run while question and weights are the same."""
    if grid.judging is None:
        return lambda run: [last_metrics(run)]
    judging = grid.judging
    from ganpo_core import Judge, component
    from ganpo_evaluation.asking import asked
    from ganpo_evaluation.generation import held_out_data
    from ganpo_evaluation.language_model import LanguageModel, load_language_model, reference_of
    from ganpo_evaluation.matching import read_sequences
    from ganpo_evaluation.sampling import Sampling
    from ganpo_evaluation.sweep import Bench, sweep
    from ganpo_evaluation.texts import read_prompts

    options = dict(judging.judge)
    name = str(options.pop("use", ""))
    made = component("judge", name, **options)
    assert isinstance(made, Judge)
    prompts = [prompt for prompt, _ in read_prompts(folder / judging.prompts)[: judging.limit]]
    sampling = Sampling(seed=judging.seed, max_new_tokens=judging.max_new_tokens, batch_size=judging.batch_size)
    benches: dict[str, tuple[Bench, LanguageModel]] = {}

    def judged(run: Path) -> list[dict[str, Any]]:
        question = {**json.loads(json.dumps(asdict(judging))), "policy": _weights(run)}
        kept = run / "ablation.json"
        if kept.is_file():
            found = json.loads(kept.read_text(encoding="utf-8"))
            if found["question"] == question:
                return [{**row, **last_metrics(run)} for row in found["rows"]]
        reference = reference_of(str(run))
        if reference not in benches:
            benches[reference] = Bench(prompts, sampling, asked(made)), load_language_model(reference)
        bench, anchor = benches[reference]
        data = folder / judging.entropy_data if judging.entropy_data else held_out_data(str(run))
        sequences = read_sequences(data, anchor.tokenizer, 400, anchor.context or 2048)
        result = sweep([load_language_model(str(run))], anchor, judging.temperatures, bench, sequences, say, {})
        rows = [dict(row) for row in result.rows]
        kept.write_text(json.dumps({"question": question, "rows": rows}, indent=1), encoding="utf-8")
        return [{**row, **last_metrics(run)} for row in rows]

    return judged


def _weights(run: Path) -> str:
    """A digest of a run's trained policy, from its manifest."""
    return sha256((run / "policy" / "manifest.json").read_bytes()).hexdigest()


def last_metrics(run: Path) -> dict[str, Any]:
    """The shown ones of a run's last steps."""
    last: dict[str, Any] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        last |= json.loads(line)
    return {key: last[key] for key in ("step", *SHOWN) if key in last}


def draw(result: Result, figure: Any) -> None:
    """The score (or the margin) of each run; failed runs are left out."""
    axes = figure.subplots()
    column = "score" if any("score" in row for row in result.rows) else "rewards/margins"
    rows = [row for row in result.rows if row.get(column) is not None and row.get("policy", row["run"]) is not None]
    labels = [str(row["run"]) + _point(row) for row in rows]
    axes.barh(range(len(rows)), [row[column] for row in rows])
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(column)
    axes.grid(axis="x", alpha=0.3)


def _point(row: Row) -> str:
    if "policy" not in row:
        return ""
    return f", {row['policy']} T {row['T']:.2f}" + ", entropy matched" * bool(row["matched"])


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
