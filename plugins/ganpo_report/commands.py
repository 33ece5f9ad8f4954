"""`ganpo report …`, `ganpo diff …`, `ganpo plot …`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ganpo_core import DataError, GanpoError

if TYPE_CHECKING:
    from rich.table import Table

# One command each, whose arguments are the runs: options may stand before and after them.
INTERSPERSED = {"allow_interspersed_args": True}

report_app = typer.Typer(help="One HTML page about one or several runs.")
diff_app = typer.Typer(help="What differs between two runs.")
plot_app = typer.Typer(no_args_is_help=True, help="Figures of the paper, from runs and models of yours.")

Runs = Annotated[list[Path], typer.Argument(help="Output folders of `ganpo train`.")]
Folder = Annotated[Path, typer.Option(file_okay=False, help="Where the JSON and the PNG are written.")]


@report_app.callback(invoke_without_command=True, subcommand_metavar="", context_settings=INTERSPERSED)
def report(
    runs: Runs,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="The page; default: report.html in the first run's folder.")
    ] = None,
    evaluation: Annotated[list[Path] | None, typer.Option(help="A folder of evaluations beside the runs' own.")] = None,
    samples: Annotated[int, typer.Option(min=0, help="Prompts shown with every run's answers.")] = 6,
) -> None:
    """Write one self-contained HTML page: what ran, how it went, and what to look at."""
    from ganpo_report.page import make_page
    from ganpo_report.runs import read_runs

    if missing := [folder for folder in evaluation or () if not folder.is_dir()]:
        raise DataError(f"--evaluation: {missing[0]} is no folder")
    page = make_page(read_runs(runs), samples, evaluation or ())
    target = output or runs[0] / "report.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    print(target)


@diff_app.callback(invoke_without_command=True, subcommand_metavar="", context_settings=INTERSPERSED)
def diff(
    first: Annotated[Path, typer.Argument(help="A run's folder.")],
    second: Annotated[Path, typer.Argument(help="Another's.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="Relative difference of metrics that counts as none.")] = 0.0,
    as_json: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Also write everything to this file.")] = None,
) -> None:
    """Compare two runs. Exit status: 0 if they are the same, 1 if they differ, 2 if they cannot be compared."""
    from ganpo_report.differences import compare, tables
    from ganpo_report.facts import as_text
    from ganpo_report.runs import read_runs

    try:
        one, other = read_runs([first, second])
        found = compare(one, other, tolerance)
    except GanpoError as error:
        # As diff(1) has it: 1 means a difference, so trouble needs a status of its own.
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json is not None:
        as_json.parent.mkdir(parents=True, exist_ok=True)
        as_json.write_text(as_text(found.as_json()), encoding="utf-8")
    if found.identical:
        print("the same: settings, versions, data, weights and every logged metric")
        return
    _show(tables(found))
    raise typer.Exit(1)


@plot_app.command()
def margins(runs: Runs, output: Folder = Path()) -> None:
    """Figures 6 to 9: reward margins and accuracy over the steps of each run."""
    from ganpo_report import margins as figure
    from ganpo_report.runs import read_runs

    found = figure.measure(read_runs(runs))
    _show([figure.table(found)])
    print(*figure.write(found, output), sep="\n")


@plot_app.command("anchor-distance")
def anchor_distance(
    model: Annotated[str, typer.Argument(help="A model's folder or hub name, or a run's folder: its trained policy.")],
    file: Annotated[Path | None, typer.Option(help="JSONL of anchors; default: examples/paper/anchors.jsonl.")] = None,
    layer: Annotated[int, typer.Option(help="0 is the embeddings, -1 what the head reads.")] = -1,
    pool: Annotated[Literal["mean", "last"], typer.Option(help="Over a text's tokens, or its last token alone.")] = "mean",
    output: Folder = Path(),
) -> None:
    """Figure 2: paraphrases and near-strings, by edits of tokens and by distance of latents."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ganpo_report import anchors as figure

    found = figure.measure(model, figure.read_anchors(file or figure.EXAMPLE), layer, pool)
    _show(figure.tables(found))
    print(*figure.write(found, output), sep="\n")


def _show(tables: list[Table]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)  # names are anyone's: `[…]` in them is no markup
    console.width = max(console.width, 100)
    for table in tables:
        console.print(table)
