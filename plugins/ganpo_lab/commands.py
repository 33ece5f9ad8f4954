"""`ganpo lab …`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ganpo_core import ConfigError

app = typer.Typer(no_args_is_help=True, help="RecordWorld: a small world whose oracle is a program.")


@app.callback()
def lab() -> None:
    """RecordWorld: a small world whose oracle is a program."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/lab"),
    seed: Annotated[int, typer.Option(min=0, help="Of the world, the reference, the pairs and the runs.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of each run; default: the files'.")] = None,
    examples: Annotated[Path | None, typer.Option(help="The folder of dpo.yaml, ganpo.yaml and mse.yaml.")] = None,
) -> None:
    """Train DPO, GANPO(DPO) and latent MSE in RecordWorld and compare them: two to three minutes on two cores."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ganpo_lab.demo import EXAMPLES, run_demo

    run_demo(output, examples or EXAMPLES, seed, steps)


@app.command("demo-vision")
def demo_vision(
    output: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("runs/lab_vision"),
    seed: Annotated[int, typer.Option(min=0, help="Of the world, the reference, the pairs and the runs.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps of each run; default: the files'.")] = None,
    examples: Annotated[Path | None, typer.Option(help="The folder of dpo.yaml and ganpo.yaml.")] = None,
) -> None:
    """The same world with its requests drawn: train DPO and GANPO(DPO) of a small model that sees, and compare them."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ganpo_lab.demo_vision import EXAMPLES, run_vision_demo

    run_vision_demo(output, examples or EXAMPLES, seed, steps)


@app.command()
def claims(
    claims: Annotated[str | None, typer.Option(help="Only tables that speak to these, e.g. C1,C2.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Only these of the protocols' seeds, e.g. 0,1.")] = None,
    only: Annotated[str | None, typer.Option("--only", "--row", help="Only these rows, e.g. dpo,mse_w50.")] = None,
    fresh: Annotated[
        bool, typer.Option(help="Make rows again from nothing and compare with the results, which stay as they are.")
    ] = False,
    file: Annotated[Path | None, typer.Option(help="Rows and tables; default: those of C1 to C10 and of the search.")] = None,
    results: Annotated[Path, typer.Option(help="One JSON a row and seed: read, and added to.")] = Path("benchmarks/results/lab"),
    cache: Annotated[Path, typer.Option(help="References, preference pairs and runs under way.")] = Path("runs/lab/claims"),
    page: Annotated[Path, typer.Option(help="Its tables are written from the results.")] = Path("docs/lab.md"),
    page_only: Annotated[bool, typer.Option(help="Run nothing; write the page from the results.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only say what would run.")] = False,
) -> None:
    """Test the paper's claims in RecordWorld: train every row in several worlds, and write docs/lab.md."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ganpo_lab.claims import Settings, check_again, run_queue
    from ganpo_lab.configurations import CLAIMS, SEARCH, jobs, read_plans
    from ganpo_lab.page import write_page

    plans = [plan for path in ((file,) if file else (CLAIMS, SEARCH)) for plan in read_plans(path)]
    wanted = set(_parts(claims))
    chosen = [plan for plan in plans if not wanted or wanted & set(plan.claims)]
    queue = jobs(chosen, _numbers(seeds), _parts(only))
    if dry_run:
        for job in queue:
            typer.echo(f"{'done   ' if (results / job.file).is_file() else 'missing'}  {results / job.file}")
        return
    if fresh:
        with tempfile.TemporaryDirectory(prefix="ganpo-lab-") as scratch:
            if not check_again(queue, results, Path(scratch), Settings()):
                raise typer.Exit(1)
        return
    try:
        if not page_only:
            run_queue(queue, results, cache.resolve(), Settings())
    finally:  # a queue of hours is interrupted: the page says what its results say all the same
        write_page(page, plans, results)


def _parts(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(part) for part in _parts(text)]
    except ValueError as error:
        raise ConfigError(f"lab claims: --seeds: {error}; give whole numbers, e.g. 0,1") from error
