"""`ganpo replay`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def replay(
    bundle: Annotated[Path, typer.Argument(help="The folder that a stopped run named.")],
) -> None:
    """Run a step that was stopped for a value that is not finite again; exits 1 if it is finite now."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ganpo_core.replay import replay as replay_bundle

    found = replay_bundle(bundle)
    print(f"recorded  not finite: {', '.join(found.recorded)}")
    print(f"now       not finite: {', '.join(found.found) or 'nothing'}")
    if found.message:
        print(found.message)
    for place in found.modules[:8]:
        print(f"first seen at  {place}")
    for row in found.rows:
        print(f"does it alone  {row}")
    if found.found and not found.rows:
        print("every row, or none, does it alone: it lies in the state, not in a row")
    print("reproduced" if found.is_reproduced else "not reproduced")
    if not found.is_reproduced:
        raise typer.Exit(1)
