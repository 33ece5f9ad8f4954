"""`ganpo bench`: an optimizer step of ours beside one of TRL's, on the same model, rows and machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganpo_core import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def ganpo_commands() -> dict[str, typer.Typer]:
    """`ganpo bench …`."""
    from ganpo_bench.commands import app

    return {"bench": app}
