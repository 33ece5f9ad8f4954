"""The comparison: prepare, take turns, sum up."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganpo_bench.lengths import DISTRIBUTIONS, draw_lengths, read_lengths
from ganpo_bench.prepare import BETA, LEARNING_RATE, Job, from_run_file, from_shape, ordered_rows, run_of
from ganpo_bench.report import SAME_LOSS, Budget, Result, agreement, machine, make_table, ratios, show
from ganpo_bench.shapes import SHAPES
from ganpo_bench.sides import Side, our_side, peer_side, take_turns
from ganpo_core import ConfigError, TrainingError

PEER = "trl_dpo"


@dataclass(frozen=True)
class Request:
    """What the command was asked for."""

    shape: str
    against: str
    steps: int
    variants: tuple[str, ...]
    lengths: str
    scale_lengths: float = 1.0
    threads: int = 2
    block: int = 1
    warm_up: int = 1
    pairs: int | None = None
    accumulation: int = 1
    checkpointing: bool | None = None
    apart: bool | None = None
    peer_python: str | None = None
    seed: int = 0

    @property
    def is_large(self) -> bool:
        """Whether the shape is one for a GPU."""
        return self.shape in SHAPES and SHAPES[self.shape].is_large


def compare(request: Request) -> dict[str, Any]:
    """Time every side, print the table, and return everything as plain data."""
    device = device_name()
    with tempfile.TemporaryDirectory(prefix="ganpo-bench-") as work:
        folder = Path(work)
        job = prepare(request, folder, device)
        steps = request.warm_up + request.steps
        rows, pad = ordered_rows(job, steps)
        sides = [
            our_side(variant, run_of(job, variant, folder / "runs" / variant), folder, request.threads)
            for variant in request.variants
        ]
        if request.against == "trl":
            sides.append(
                peer_side(PEER, _peer_spec(job, rows, pad, folder), folder, request.threads, request.peer_python)
            )
        apart = request.is_large if request.apart is None else request.apart
        for line in take_turns(sides, request.steps, request.block, request.warm_up, apart):
            print(line, file=sys.stderr, flush=True)
        budgets = _budgets(job, request.variants, rows, folder)
    tokens = [
        sum(
            len(side)
            for row in rows[step * job.pairs_per_step : (step + 1) * job.pairs_per_step]
            for side in row.values()
        )
        for step in range(request.warm_up, steps)
    ]
    results = [Result.of(side, tokens, budgets[side.name], device) for side in sides]
    differences = _check_agreement(sides, SAME_LOSS[job.base["model"]["dtype"]])
    against = PEER if request.against == "trl" else sides[0].name
    title = f"{request.shape}: {job.pairs_per_step} pairs and {np.mean(tokens):.0f} tokens a step"
    show(make_table(title, results, against))
    if differences:
        print(
            "first step, dpo against the peer: " + ", ".join(f"{key} {value:.2g}" for key, value in differences.items())
        )
    return {
        "shape": request.shape,
        "request": vars(request),
        "pairs_per_step": job.pairs_per_step,
        "tokens": tokens,
        "sides": {result.name: result.as_json() for result in results},
        "ratios": ratios(results),
        "first_step_differences": differences,
        "machine": machine(sides, request.threads, device),
    }


def prepare(request: Request, folder: Path, device: str | None) -> Job:
    """The model and the rows of a request."""
    if request.shape not in SHAPES:
        path = Path(request.shape)
        if not path.is_file():
            raise ConfigError(f"--shape: '{request.shape}' is neither a run file nor one of {', '.join(SHAPES)}")
        return from_run_file(path)
    shape = SHAPES[request.shape]
    pairs = (request.pairs or shape.pairs) * request.accumulation
    count = pairs * (request.warm_up + request.steps)
    checkpointing = shape.is_large if request.checkpointing is None else request.checkpointing
    return from_shape(
        request.shape,
        lengths_of(request, count),
        folder,
        "float32" if device is None else "bfloat16",
        checkpointing,
        request.pairs,
        request.accumulation,
    )


def lengths_of(request: Request, count: int) -> NDArray[np.int64]:
    """As many as the steps need."""
    if request.lengths in DISTRIBUTIONS:
        return draw_lengths(request.lengths, count, request.seed, request.scale_lengths)
    path = Path(request.lengths)
    if not path.is_file():
        raise ConfigError(f"--lengths: '{request.lengths}' is neither a file nor one of {', '.join(DISTRIBUTIONS)}")
    table = read_lengths(path)
    order = np.random.default_rng(request.seed).permutation(len(table))
    scaled = np.maximum(1, table[order] * request.scale_lengths).astype(np.int64)
    return np.resize(scaled, (count, 3))


def device_name() -> str | None:
    """Of the CUDA device; None without one."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _peer_spec(job: Job, rows: Sequence[Mapping[str, list[int]]], pad: int, folder: Path) -> dict[str, Any]:
    return {
        "model": job.base["model"]["path"],
        "dtype": job.base["model"]["dtype"],
        "rows": rows,
        "pad_token_id": pad,
        "pairs": job.pairs,
        "accumulation": job.accumulation,
        "learning_rate": LEARNING_RATE,
        "beta": BETA,
        "gradient_checkpointing": job.base["training"]["gradient_checkpointing"],
        "optim": job.base["training"]["optim"],
        "output_dir": str(folder / PEER),
    }


def _budgets(
    job: Job, variants: Sequence[str], rows: Sequence[Mapping[str, Sequence[int]]], folder: Path
) -> dict[str, Budget]:
    from ganpo_core.config import load_run
    from ganpo_core.plan import Lengths, plan_run

    table = np.array([[len(row[side]) for side in ("prompt", "chosen", "rejected")] for row in rows], dtype=np.int64)
    found = {}
    for variant in {*variants, "dpo"}:
        # Useful work: every token once, whatever layout was timed.
        plan = plan_run(load_run(run_of(job, variant, folder)), Lengths(table, "the rows timed"), layout="shared")
        held = plan.memory.resident
        critics = sum(size for name, size in held.items() if name.startswith("critics"))
        # Their gradients, a quarter of it, are gone between two steps, and come back within one.
        budget = Budget(held["gradients"], critics * 3 / 4, plan.work.useful * job.pairs_per_step)
        found[variant] = budget
    return {**found, PEER: found["dpo"]}


def _check_agreement(sides: Sequence[Side], tolerance: float) -> dict[str, float]:
    """Raises TrainingError where plain DPO of ours and of the peer are not the same computation."""
    by_name = {side.name: side for side in sides}
    ours = next(
        (side for name, side in by_name.items() if name.split("-")[0] in ("dpo", "padded", "packed", "shared")), None
    )
    if PEER not in by_name or ours is None:
        return {}
    found = agreement(ours, by_name[PEER])
    if max(found.values()) >= tolerance:
        raise TrainingError(f"bench: {ours.name} and the peer disagree in the first step: {json.dumps(found)}")
    return found
