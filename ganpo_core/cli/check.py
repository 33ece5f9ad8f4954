"""`ganpo check`: everything short of weights."""

from __future__ import annotations

import json
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
    from ganpo_core.demands import check_declarations

    config = load_run(run, overrides or ())
    check_declarations(config.objective)
    rows = [(path, _text(value), config.origins.get(path, "")) for path, value in flatten(config.resolved)]
    path_width = max(len(path) for path, _, _ in rows)
    value_width = min(40, max(len(value) for _, value, _ in rows))
    for path, value, origin in rows:
        print(f"{path:<{path_width}}  {value:<{value_width}}  {origin}".rstrip())
    for note in config.notes:
        print(note)


def _text(value: object) -> str:
    """A value as a run file would say it."""
    return value if isinstance(value, str) else json.dumps(value)
