"""`ganpo evaluate …`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ganpo_evaluation.choose import JudgeName, Output, Plugins, Seed, With, choose_judge

evaluate = typer.Typer(no_args_is_help=True, help="The paper's tables and figures, on your models, judges and files.")
FOLDER = Path("runs/evaluation")


@evaluate.callback()
def group() -> None:
    """The paper's tables and figures, on your models, judges and files."""


@evaluate.command()
def alpaca(
    annotations: Annotated[list[Path] | None, typer.Option(help="AlpacaEval's annotations of a model; repeatable.")] = None,
    outputs: Annotated[list[Path] | None, typer.Option(help="Instead: a model's outputs, to be judged; repeatable.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Of --outputs: the baseline's outputs.")] = None,
    judge: JudgeName = "alpaca_eval",
    options: With = None,
    plugin: Plugins = None,
    gamed: Annotated[Path | None, typer.Option(help="AlpacaEval's df_gamed.csv, for length_controlled_v1.")] = None,
    leaderboard: Annotated[Path | None, typer.Option(help="A leaderboard file whose figures to show beside.")] = None,
    seed: Seed = 0,
    output: Output = FOLDER,
) -> None:
    """Win rate, length-controlled win rate and length on AlpacaEval (Table 1), from annotations or from a judge."""
    from ganpo_evaluation.alpaca_results import draw, from_annotations, from_outputs
    from ganpo_evaluation.results import show

    if (annotations is None) == (outputs is None):
        raise typer.BadParameter("give either --annotations or --outputs")
    if annotations:
        result = from_annotations(annotations, gamed, leaderboard, seed)
    else:
        if baseline is None:
            raise typer.BadParameter("--outputs: needs --baseline, the outputs to win over")
        assert outputs is not None
        result = from_outputs(outputs, baseline, choose_judge(judge, options, plugin), judge, gamed, seed)
    show(result, output, partial(draw, result))


@evaluate.command()
def ifeval(
    responses: Annotated[list[Path], typer.Option(help="Responses to IFEval's prompts; repeatable.")],
    data: Annotated[Path, typer.Option(help="IFEval's input_data.jsonl.")],
    output: Output = FOLDER,
) -> None:
    """Strict and loose accuracy on IFEval (Figure 3b), for prompts and for single instructions."""
    from ganpo_evaluation.ifeval_results import draw, from_responses
    from ganpo_evaluation.results import show

    result = from_responses(responses, data)
    show(result, output, partial(draw, result))
