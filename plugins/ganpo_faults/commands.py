"""`ganpo faults`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

app = typer.Typer(help="Break real runs on purpose, and count how many survive or say why they stopped.")


@app.callback(invoke_without_command=True)
def faults(
    only: Annotated[list[str] | None, typer.Option(help="A family of faults; may be given again. Default: all.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Of each family; default: its own number.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Few trials of each family, as the tests run them.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the random moments and places.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where to break things; default: a temporary folder.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write every trial to this file.")] = None,
) -> None:
    """Run families of faults and print the table of what held."""
    from ganpo_faults.families import FAMILIES
    from ganpo_faults.site import Site
    from ganpo_faults.table import write_json, write_table

    known = {family.name: family for family in FAMILIES}
    if unknown := [name for name in only or () if name not in known]:
        raise typer.BadParameter(f"--only: '{unknown[0]}' is none of {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(only or known)]
    results, seconds = {}, {}
    with TemporaryDirectory(prefix="ganpo-faults-") as temporary:
        root = folder or Path(temporary)
        for family in chosen:
            count = trials or (family.short if short else family.trials)
            start = time.monotonic()
            found = results[family.name] = []
            with Site(root / family.name, seed) as site:
                for trial in family.run(site, count):
                    found.append(trial)
                    verdict = "ok" if trial.passed else "FAILED"
                    print(f"{family.name} {len(found)}: {trial.name}: {verdict}  {trial.detail}", file=sys.stderr, flush=True)
            seconds[family.name] = time.monotonic() - start
    print(write_table(chosen, results))
    if as_json is not None:
        write_json(chosen, results, seconds, as_json)
    if not all(trial.passed for found in results.values() for trial in found):
        raise typer.Exit(1)
