"""`ganpo faults`: breaks real runs on purpose, and counts how many survive or say why they stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganpo_core import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def ganpo_commands() -> dict[str, typer.Typer]:
    """`ganpo faults …`."""
    from ganpo_faults.commands import app

    return {"faults": app}
