"""`ganpo doctor`: the model that a run names, put to the test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as model.path=./my_model")] = None,
) -> None:
    """Load the model and check what training relies on; exit status 1 where something fails. Nothing is written."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from accelerate import Accelerator

    from ganpo_core.assemble import assemble
    from ganpo_core.config import load_run
    from ganpo_core.doctor import examine

    failed = 0
    for finding in examine(assemble(load_run(run, overrides or ()), Accelerator())):
        print(finding.line(), flush=True)
        failed += not finding.ok
    if failed:
        raise typer.Exit(1)
