"""`ganpo train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def train(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as objective.beta=0.2")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint, or start where there is none.")
    ] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="A key that may differ when resuming; may be given again.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the model's files run Python code of their own.")
    ] = False,
) -> None:
    """Train a policy as a run file says."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ganpo_core import train as train_run

    folder = train_run(run, overrides or (), resume=resume, allow=allow or (), trust_remote_code=trust_remote_code)
    if os.environ.get("RANK", "0") == "0":
        print(folder)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Everything is saved, and every process has passed the last barrier. Tearing the interpreter down under the
        # process group's threads could still abort a run that succeeded ("terminate called without an active exception").
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
