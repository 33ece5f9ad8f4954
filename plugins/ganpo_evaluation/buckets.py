"""`ganpo evaluate length-buckets`: win rate by the length of one's own response (Figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import typer

from ganpo_core import DataError, statistics
from ganpo_evaluation.alpaca import Annotations
from ganpo_evaluation.results import Result, Row, shown


def by_length(found: Sequence[Annotations], edges: str, facts: dict[str, Any]) -> Result:
    """Win rate, count and Wilson's interval of each bucket, and the slope of wins over length."""
    rows: list[Row] = []
    notes = ["length: characters of one's own response. Intervals are Wilson's, 95 %."]
    for each in found:
        lengths, wins = np.array(each.lengths, dtype=np.float64), np.array(each.wins)
        bounds = parse_edges(edges, lengths)
        place = np.clip(np.searchsorted(bounds, lengths, side="right") - 1, 0, len(bounds) - 2)
        for bucket in range(len(bounds) - 1):
            own = wins[place == bucket]
            low, high = bounds[bucket], bounds[bucket + 1]
            span = f"{low:.0f} to {high:.0f}"
            row: dict[str, str | float | int | None] = {"model": each.model, "bucket": span, "answers": len(own)}
            if len(own):
                interval = statistics.wilson_interval(own)
                row |= {"win rate": 100 * interval.estimate, "low": 100 * interval.low, "high": 100 * interval.high}
                row["mean length"] = float(lengths[place == bucket].mean())
            rows.append(row)
        if np.ptp(lengths) > 0:
            from scipy.stats import linregress  # slow to import: not for every command

            line = linregress(lengths, wins)
            slope, error = 1e5 * line.slope, 1e5 * line.stderr
            told = f"{slope:+.2f} points of win rate for 1000 more characters (standard error {shown(float(error))})"
            notes.append(f"{each.model}: {told}")
    return Result("length_buckets", "Win rate in %, by length of the response", rows, (), notes, facts=facts)


def parse_edges(text: str, lengths: Any) -> Any:
    """`quantile:5`, or edges such as `0,500,1000`; the outer ones reach to the shortest and the longest."""
    if text.startswith("quantile:"):
        count = text.partition(":")[2]
        if not count.isdigit() or int(count) < 1:
            raise typer.BadParameter(f"--edges: quantile:5, or numbers such as 0,500,1000; got '{text}'")
        return np.unique(np.quantile(lengths, np.linspace(0, 1, int(count) + 1))) if np.ptp(lengths) else lengths[:1].repeat(2)
    try:
        edges = np.unique([float(part) for part in text.split(",")])
    except ValueError as error:
        raise typer.BadParameter(f"--edges: quantile:5, or numbers such as 0,500,1000; got '{text}'") from error
    if len(edges) < 2 or not np.isfinite(edges).all():
        raise typer.BadParameter(f"--edges: two different numbers at least, got '{text}'")
    if lengths.min() < edges[0] or lengths.max() > edges[-1]:
        raise DataError(f"--edges: lengths go from {lengths.min():.0f} to {lengths.max():.0f}, beyond {text}")
    return edges


def draw(result: Result, figure: Any) -> None:
    """Win rate over mean length of the bucket, with intervals."""
    axes = figure.subplots()
    for name in dict.fromkeys(str(row["model"]) for row in result.rows):
        own = [row for row in result.rows if row["model"] == name and row["answers"]]
        x, y = ([float(row[key]) for row in own] for key in ("mean length", "win rate"))  # type: ignore[arg-type]
        below = [float(row["win rate"]) - float(row["low"]) for row in own]  # type: ignore[arg-type]
        above = [float(row["high"]) - float(row["win rate"]) for row in own]  # type: ignore[arg-type]
        axes.errorbar(x, y, yerr=(below, above), marker="o", capsize=3, label=name)
    axes.set(xlabel="characters of one's own response", ylabel="win rate, %")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
