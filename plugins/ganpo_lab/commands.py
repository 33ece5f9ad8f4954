"""`ganpo lab …`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

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
    """Train DPO, GANPO(DPO) and latent MSE in RecordWorld and compare them: about five minutes on two cores."""
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
