"""The application: core commands, and those that built-in plugins add."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from ganpo_core.cli import check, checkpoints, data, describe, doctor, plan, plugins, replay, schema, train, verify
from ganpo_core.errors import ConfigError, GanpoError, StoppedError
from ganpo_core.plugins import load_plugins
from ganpo_core.redact import redact


def make_app() -> typer.Typer:
    """A fresh application with every command in it."""
    app = typer.Typer(
        name="ganpo",
        help="Latent adversarial regularization of offline preference optimization, recombined from plugins.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if sys.stdout.isatty() and sys.stderr.isatty() else None,
    )
    app.command("train")(train.train)
    app.command("checkpoints")(checkpoints.checkpoints)
    app.command("replay")(replay.replay)
    app.command("check")(check.check)
    app.command("doctor")(doctor.doctor)
    app.command("plan")(plan.plan)
    app.command("plugins")(plugins.list_plugins)
    app.command("describe")(describe.describe)
    app.command("verify")(verify.verify)
    app.command("schema")(schema.schema)
    app.add_typer(data.app, name="data")
    for name, group in load_plugins().commands().items():
        alone = _only_command(group)
        if alone is None:
            app.add_typer(group, name=name)
        else:
            app.command(name)(alone)
    return app


def _only_command(group: typer.Typer) -> Callable[..., Any] | None:
    """The command of an app that has one and nothing else, as typer itself reads such an app."""
    if len(group.registered_commands) != 1 or group.registered_groups or group.registered_callback:
        return None
    return group.registered_commands[0].callback


def main() -> None:
    """Run the command line; what a user can fix is printed without a traceback, one line each."""
    try:
        make_app()()
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        _leave(stopped.exit_code)
    except GanpoError as error:
        for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
            print("error:", " ".join(line.strip() for line in problem.splitlines()), file=sys.stderr)
        _leave(error.exit_code)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            print("error: the device ran out of memory:", redact(str(error).strip().partition("\n")[0]), file=sys.stderr)
            print("`ganpo plan RUN` says what a run needs, and what lowers it", file=sys.stderr)
        else:  # a mistake of ours: the traceback, without credentials that its messages may hold
            print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        _leave(1)


def _leave(code: int) -> None:
    """Exit; at once where there are several processes: an orderly end would wait for the others, who wait for it, and
    the group's threads could still abort the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(code)
    raise SystemExit(code)
