"""`ganpo schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    plugin: Annotated[list[str] | None, typer.Option(help="Enable a third-party plugin first.")] = None,
) -> None:
    """Print the JSON schema of a run file, which gives editors completion and checks."""
    from ganpo_core.plugins import load_plugins
    from ganpo_core.schema import run_schema

    print(json.dumps(run_schema(load_plugins(plugin or ())), indent=1))
