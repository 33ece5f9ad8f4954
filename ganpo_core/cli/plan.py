"""`ganpo plan`: memory and work, before a weight is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def plan(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as model.path=./my_model")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes of the run, one a device.")] = 1,
    prompt: Annotated[
        int | None, typer.Option(min=1, help="Assume prompts of so many tokens; the data are not read.")
    ] = None,
    response: Annotated[int | None, typer.Option(min=1, help="Assume responses of so many tokens.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file.")] = None,
) -> None:
    """State what a run will hold in memory and compute; only the model's configuration is read, and the data's lengths."""
    from rich.console import Console

    from ganpo_core.config import load_run
    from ganpo_core.plan import Lengths, plan_run, plan_table

    if (prompt is None) != (response is None):
        raise typer.BadParameter("give both --prompt and --response, or neither")
    lengths = None if prompt is None or response is None else Lengths.assumed(prompt, response)
    found = plan_run(load_run(run, overrides or ()), lengths, processes)
    Console(soft_wrap=True, highlight=False).print(plan_table(found))
    if as_json is not None:
        as_json.write_text(json.dumps(found.as_json(), indent=1) + "\n", encoding="utf-8")
