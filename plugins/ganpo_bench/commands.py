"""`ganpo bench …`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="An optimizer step of ours beside one of TRL's, on the same model, rows and machine.")

Json = Annotated[
    Path | None, typer.Option("--json", help="Also write everything, every step's time too, to this file.")
]


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    shape: Annotated[str, typer.Option(help="S, V, gemma2-2b, llama3-8b, llama3-70b, tiny, or a run file.")] = "S",
    against: Annotated[str, typer.Option(help="trl, or none.")] = "none",
    steps: Annotated[int, typer.Option(min=1, help="Timed optimizer steps of each side.")] = 10,
    variants: Annotated[
        str, typer.Option(help="Of ours: dpo, ganpo, simpo, ganpo_simpo; padded, packed, shared; or ganpo-packed.")
    ] = "dpo,ganpo",
    lengths: Annotated[
        str, typer.Option(help="ultrafeedback, hh, or a JSON or JSONL file of lengths.")
    ] = "ultrafeedback",
    scale_lengths: Annotated[float, typer.Option(min=0.01, help="Factor of every length.")] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="Of each side, on a CPU.")] = 2,
    block: Annotated[int, typer.Option(min=1, help="Steps that a side takes before the next has its turn.")] = 1,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps of each side before timing starts.")] = 1,
    pairs: Annotated[int | None, typer.Option(min=1, help="Of a micro-batch; default: the shape's.")] = None,
    accumulation: Annotated[int, typer.Option(min=1, help="Micro-batches of a step.")] = 1,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="On both sides; default: large shapes.")
    ] = None,
    apart: Annotated[
        bool | None, typer.Option("--apart/--in-turns", help="One side after the other; default: large shapes.")
    ] = None,
    peer_python: Annotated[str | None, typer.Option(help="An interpreter with another version of TRL.")] = None,
    sweep_tokens: Annotated[str | None, typer.Option(help="Instead: tokens per step, such as 1024,2048,4096.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the lengths.")] = 0,
    as_json: Json = None,
) -> None:
    """Time optimizer steps, side by side."""
    if context.invoked_subcommand is not None:
        return
    from ganpo_bench.compare import Request, compare
    from ganpo_bench.prepare import parse_variant
    from ganpo_bench.shapes import SHAPES
    from ganpo_bench.sweep import sweep

    if against not in ("trl", "none"):
        raise typer.BadParameter("--against: trl or none")
    names = tuple(dict.fromkeys(name.strip() for name in variants.split(",")))
    for name in names:
        parse_variant(name)
    request = Request(
        shape=shape,
        against=against,
        steps=steps,
        variants=names,
        lengths=lengths,
        scale_lengths=scale_lengths,
        threads=threads,
        block=block,
        warm_up=warm_up,
        pairs=pairs,
        accumulation=accumulation,
        checkpointing=checkpointing,
        apart=apart,
        peer_python=peer_python,
        seed=seed,
    )
    if sweep_tokens is None:
        _write(compare(request), as_json)
        return
    if shape not in SHAPES:
        raise typer.BadParameter("--sweep-tokens: needs one of the shapes, not a run file")
    _write(sweep(request, [int(count) for count in sweep_tokens.split(",")]), as_json)


@app.command()
def overhead(
    shape: Annotated[str, typer.Option(help="S, V, gemma2-2b, llama3-8b, tiny, or a run file.")] = "S",
    steps: Annotated[int, typer.Option(min=1, help="Timed optimizer steps of each method.")] = 10,
    lengths: Annotated[str, typer.Option(help="ultrafeedback, hh, or a JSON or JSONL file of lengths.")] = "ultrafeedback",
    scale_lengths: Annotated[float, typer.Option(min=0.01, help="Factor of every length.")] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="On a CPU.")] = 2,
    warm_up: Annotated[int, typer.Option(min=1, help="Steps of each method before timing starts.")] = 1,
    pairs: Annotated[int | None, typer.Option(min=1, help="Of a micro-batch; default: the shape's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the lengths.")] = 0,
    output: Annotated[Path, typer.Option(help="The folder that the JSON file and the picture are written to.")] = (
        Path("runs/bench/overhead")
    ),
) -> None:
    """What the adversary adds to a step of DPO and of SimPO, also over a base that makes the reference's pass (Table 4)."""
    from ganpo_bench.compare import Request, compare
    from ganpo_bench.overhead import PAPER, VARIANTS, draw_overheads, overheads, show_overheads

    request = Request(
        shape=shape, against="none", steps=steps, variants=VARIANTS, lengths=lengths, scale_lengths=scale_lengths,
        threads=threads, warm_up=warm_up, pairs=pairs, seed=seed,
    )
    found = compare(request)
    rows = overheads(found)
    show_overheads(rows)
    _write({**found, "overhead": rows, "paper": PAPER}, output / "overhead.json")
    draw_overheads(rows, output / "overhead.png")
    print(f"written: {output / 'overhead.json'}, overhead.png")


@app.command()
def start(
    repeats: Annotated[int, typer.Option(min=1, help="Of each command, in turns.")] = 5, as_json: Json = None
) -> None:
    """Time `ganpo --help`, `ganpo plugins` and `ganpo check` beside a bare `import torch`."""
    from ganpo_bench.start import time_start

    _write(time_start(repeats), as_json)


@app.command()
def model(
    shape: Annotated[str, typer.Argument(help="S, V, gemma2-2b, llama3-8b, llama3-70b or tiny.")],
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    weights: Annotated[bool, typer.Option("--weights", help="Also random weights and a tokenizer.")] = False,
) -> None:
    """Write a shape's `config.json`, which is all that `ganpo plan RUN.yaml model.path=FOLDER` reads."""
    from ganpo_bench.shapes import SHAPES, write_config, write_model

    if shape not in SHAPES:
        raise typer.BadParameter(f"'{shape}' is none of {', '.join(SHAPES)}")
    folder.mkdir(parents=True, exist_ok=True)
    (write_model if weights else write_config)(SHAPES[shape], folder)
    print(folder)


def _write(found: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
