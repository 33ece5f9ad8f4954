"""`ganpo check`: everything short of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def check(
    run: Annotated[Path, typer.Argument(help="The run file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as objective.beta=0.2")] = None,
) -> None:
    """Resolve a run file and print every value with its origin; weights and rows are not read."""
    from ganpo_core.config import load_run
    from ganpo_core.config.run import flatten

    config = load_run(run, overrides or ())
    rows = [(path, value, config.origins.get(path, "")) for path, value in flatten(config.resolved)]
    width = max(len(path) for path, _, _ in rows)
    shown = max(len(_text(value)) for _, value, _ in rows)
    for path, value, origin in rows:
        print(f"{path:<{width}}  {_text(value):<{min(shown, 40)}}  {origin}".rstrip())
    for note in config.notes:
        print(note)


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
