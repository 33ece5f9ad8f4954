"""What was measured, as a table and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from ganpo_bench.sides import Side

if TYPE_CHECKING:
    from rich.table import Table

SAME_LOSS = {"float32": 1e-3, "float64": 1e-3, "bfloat16": 1e-2}
"""Largest difference of losses, in nats, and of mean log-probabilities, relative: beyond it, two things were timed."""
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""bfloat16, dense, by a part of the device's name."""


WIDTH = 110
"""Columns of the terminal that a table needs."""


@dataclass(frozen=True)
class Budget:
    """What a side is known to hold or to compute, from `ganpo plan`."""

    gradients: float
    """Bytes; they are gone between two steps, when the memory in use is read."""
    critics: float
    """Bytes of critics and their moments, which are in use between two steps."""
    flops_per_step: float
    """Of useful tokens, nothing computed twice."""


@dataclass(frozen=True)
class Result:
    """One side, summed up."""

    name: str
    seconds: Sequence[float]
    tokens_per_second: float
    """Prompt, chosen and rejected, each counted once."""
    peak: float | None
    """Bytes of the process (of the device's memory on CUDA)."""
    beyond: float | None
    """Of that, beyond weights, gradients, optimizer states and reference; critics are on this side of the line."""
    utilization: float | None
    """Of the device's peak, on CUDA."""

    @classmethod
    def of(cls, side: Side, tokens: Sequence[int], budget: Budget, device: str | None) -> Result:
        """`tokens` are the useful ones of each timed step."""
        peak = beyond = None
        peaks = [(found["peak"], found["before"]) for found in side.memory]
        if peaks and all(high is not None and low is not None for high, low in peaks):
            peak = float(max(high for high, _ in peaks if high is not None))
            beyond = max(float(high) - float(low) for high, low in peaks if high is not None and low is not None)
            beyond = max(0.0, beyond - budget.gradients + budget.critics)
        ceiling = next((flops for part, flops in PEAK_FLOPS.items() if device and part in device), None)
        speed = budget.flops_per_step / median(side.seconds)
        return cls(
            side.name, side.seconds, sum(tokens) / sum(side.seconds), peak, beyond, speed / ceiling if ceiling else None
        )

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        low, middle, high = quartiles(self.seconds)
        return {
            "seconds": list(self.seconds),
            "median": middle,
            "quartiles": [low, high],
            "tokens_per_second": self.tokens_per_second,
            "peak_bytes": self.peak,
            "bytes_beyond_model_and_optimizer": self.beyond,
            "model_flops_utilization": self.utilization,
        }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The quartiles; of one value, three times that."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(results: Sequence[Result]) -> dict[str, float]:
    """`a/b` of median step times and `memory:a/b` of what is held beyond model and optimizer, for every two sides."""
    found: dict[str, float] = {}
    for one in results:
        for other in results:
            if one is not other:
                found[f"{one.name}/{other.name}"] = median(one.seconds) / median(other.seconds)
    for one in results:
        for other in results:
            if one is not other and one.beyond is not None and other.beyond:
                found[f"memory:{one.name}/{other.name}"] = one.beyond / other.beyond
    return found


def spread(one: Result, other: Result) -> tuple[float, float]:
    """The quartiles of the ratio, step by step: both sides took the same pairs in the same step."""
    low, _, high = quartiles([mine / theirs for mine, theirs in zip(one.seconds, other.seconds, strict=True)])
    return low, high


def agreement(ours: Side, peer: Side) -> dict[str, float]:
    """Differences in the first step: of the loss in nats, of mean log-probabilities relative to their size."""
    mine, theirs = ours.facts[0], peer.facts[0]
    found = {"loss": abs(mine["loss"] - theirs["loss"])}
    for name in ("logps/chosen", "logps/rejected"):
        found[name] = abs(mine[name] - theirs[name]) / max(1.0, abs(theirs[name]))
    return found


def make_table(title: str, results: Sequence[Result], against: str) -> Table:
    """For the terminal; ratios are to `against`."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("side", no_wrap=True)
    columns = ["step, s", "quartiles", f"/ {against}", "quartiles", "tokens/s", "beyond, GB", "peak, GB"]
    shows_utilization = any(result.utilization is not None for result in results)
    for column in columns + ["MFU"] * shows_utilization:
        table.add_column(column, justify="right", no_wrap=True)
    other = next(result for result in results if result.name == against)
    for result in results:
        low, middle, high = quartiles(result.seconds)
        least, most = spread(result, other)
        row = [
            f"{middle:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{middle / median(other.seconds):.3f}",
            f"{least:.3f}-{most:.3f}",
        ]
        row += [f"{result.tokens_per_second:,.0f}", _gigabytes(result.beyond), _gigabytes(result.peak)]
        if shows_utilization:
            row.append("" if result.utilization is None else f"{result.utilization:.1%}")
        table.add_row(result.name, *row)
    return table


def show(table: Table) -> None:
    """Print a table; it is not squeezed where the output is narrow."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = max(console.width, WIDTH)
    console.print(table)


def machine(sides: Sequence[Side], threads: int, device: str | None) -> dict[str, Any]:
    """What it ran on, and when."""
    versions: Mapping[str, Mapping[str, str]] = {side.name: side.versions for side in sides}
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": device or "cpu",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _gigabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f}"


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
