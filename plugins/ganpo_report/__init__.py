"""What runs were and how they compare: `ganpo report`, `ganpo diff` and `ganpo plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganpo_core import hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def ganpo_commands() -> dict[str, typer.Typer]:
    """`ganpo report …`, `ganpo diff …`, `ganpo plot …`."""
    from ganpo_report.commands import diff_app, plot_app, report_app

    return {"report": report_app, "diff": diff_app, "plot": plot_app}
