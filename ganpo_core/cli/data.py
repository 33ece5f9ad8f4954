"""`ganpo data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at preference data as a run sees them.")


@app.callback()
def data() -> None:
    """Look at preference data as a run sees them."""


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as data.max_length=512")] = None,
    rows: Annotated[int, typer.Option(help="How many pairs to show.")] = 3,
    evaluation: Annotated[bool, typer.Option("--eval", help="The held-out pairs.")] = False,
) -> None:
    """Show rows with prompt, response and mask told apart, and what was dropped or cut."""
    from rich.console import Console

    from ganpo_core.assemble import within_context
    from ganpo_core.config import load_run
    from ganpo_core.data import DataReport, load_pairs, render_pairs
    from ganpo_core.models import load_processor, load_tokenizer

    config = load_run(run, overrides or ())
    processor = load_processor(config.model, config.trust_remote_code)
    tokenizer = load_tokenizer(config.model, config.trust_remote_code) if processor is None else processor.tokenizer
    data_config, notes = within_context(config)
    report = DataReport()
    try:
        pairs, _ = load_pairs(data_config, tokenizer, processor, evaluation=evaluation, report=report)
        Console(soft_wrap=True).print(render_pairs(pairs, tokenizer, rows))
    finally:  # what became of the rows is told also where they are refused
        for line in (*notes, *report.lines()):
            print(line)
