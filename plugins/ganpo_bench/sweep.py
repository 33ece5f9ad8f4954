"""Step time against tokens per step: packed work is linear in tokens."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from ganpo_bench.compare import Request, device_name
from ganpo_bench.prepare import from_shape, run_of
from ganpo_bench.report import machine, quartiles, show
from ganpo_bench.sides import Side, our_side, take_turns

PAIR = (206, 423, 395)
"""Prompt, chosen and rejected of every pair: UltraFeedback's proportions, 1024 tokens."""


def sweep(request: Request, tokens: Sequence[int]) -> dict[str, Any]:
    """Time steps of more and more pairs of 1024 tokens, in micro-batches of at most the shape's size."""
    device = device_name()
    sides: list[Side] = []
    variant = request.variants[0]
    with tempfile.TemporaryDirectory(prefix="ganpo-bench-") as work:
        folder = Path(work)
        for total in tokens:
            side = _side(request, folder, variant, total, device)
            sides.append(side)
            for line in take_turns([side], request.steps, request.block, request.warm_up, apart=False):
                print(line, file=sys.stderr, flush=True)
    taken = [max(1, total // sum(PAIR)) * sum(PAIR) for total in tokens]
    rate = median(sides[-1].seconds) / taken[-1]
    found: list[dict[str, Any]] = []
    table = Table(title=f"{request.shape}, {variant}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("tokens a step", "step, s", "quartiles", "ms / 1k tokens", "/ the largest's"):
        table.add_column(column, justify="right", no_wrap=True)
    for count, side in zip(taken, sides, strict=True):
        low, middle, high = quartiles(side.seconds)
        relative = middle / count / rate
        each = f"{middle / count * 1e6:.1f}"
        table.add_row(f"{count:,}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}", each, f"{relative:.3f}")
        found.append({"tokens": count, "seconds": side.seconds, "median": middle, "relative": relative})
    show(table)
    return {
        "shape": request.shape,
        "request": vars(request),
        "sweep": found,
        "machine": machine(sides, request.threads, device),
    }


def _side(request: Request, folder: Path, variant: str, total: int, device: str | None) -> Side:
    from ganpo_bench.shapes import SHAPES

    shape = SHAPES[request.shape]
    pairs = max(1, total // sum(PAIR))
    micro = next(size for size in range(min(pairs, request.pairs or shape.pairs), 0, -1) if pairs % size == 0)
    sized = replace(request, pairs=micro, accumulation=pairs // micro)
    lengths = np.tile(np.array(PAIR, dtype=np.int64), (pairs * 2, 1))
    checkpointing = shape.is_large if request.checkpointing is None else request.checkpointing
    dtype = "float32" if device is None else "bfloat16"
    assert sized.pairs is not None
    job = from_shape(request.shape, lengths, folder, dtype, checkpointing, sized.pairs, sized.accumulation)
    name = f"{variant}-{total}"
    return our_side(name, run_of(job, variant, folder / "runs" / name), folder, request.threads)
