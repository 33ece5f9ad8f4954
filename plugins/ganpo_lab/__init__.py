"""RecordWorld: a small world whose oracle is a program, and the commands that train and compare policies in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganpo_core import Judge, hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def ganpo_commands() -> dict[str, typer.Typer]:
    """`ganpo lab …`."""
    from ganpo_lab.commands import app

    return {"lab": app}


@hookimpl
def ganpo_judges() -> dict[str, type[Judge]]:
    """The oracle."""
    from ganpo_lab.oracle import Oracle

    return {"lab_oracle": Oracle}
