"""`ganpo score`: a run's discriminators, or any judge, on a file of responses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ganpo_evaluation.choose import Plugins, With, choose_judge

app = typer.Typer()


@app.command()
def score(
    run: Annotated[str, typer.Argument(help="A run's folder; with --judge, that judge's `run` or `path`, if it has one.")],
    responses: Annotated[Path, typer.Option(help="Rows of `instruction` and `output`, or of `prompt` and `response`.")],
    output: Annotated[Path, typer.Option(dir_okay=False, help="Where the rows go, each with its `score`: JSONL.")],
    judge: Annotated[str, typer.Option(help="By default the run's discriminators.")] = "critic",
    options: With = None,
    plugin: Plugins = None,
) -> None:
    """Score responses with a run's trained discriminators; the judge's options are those of `ganpo describe judge critic`."""
    from dataclasses import asdict

    from ganpo_evaluation.asking import asked
    from ganpo_evaluation.texts import read_answers

    chosen = choose_judge(judge, options, plugin, {"run": run, "path": run})
    answers = read_answers(responses)
    scores = asked(chosen)([answer.instruction for answer in answers], [answer.output for answer in answers])
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as file:
        for answer, value in zip(answers, scores, strict=True):
            file.write(json.dumps({**asdict(answer), "score": value, "judge": judge}, ensure_ascii=False) + "\n")
    print(f"mean score {sum(scores) / len(scores):.4f} over {len(scores)} responses; written: {output}")
