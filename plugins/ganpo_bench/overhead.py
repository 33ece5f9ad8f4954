"""`ganpo bench overhead`: what an adversary adds to a step, over its base and over the base with a reference pass (Table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganpo_bench.report import quartiles, show

VARIANTS = ("dpo", "ganpo", "simpo", "simpo_reference", "ganpo_simpo")
BASES = {"ganpo": ("dpo", "dpo"), "ganpo_simpo": ("simpo", "simpo_reference")}
"""For each method its base, and the base with a reference pass: DPO has one already."""
PAPER = "paper (arXiv 2601.22083, text of Table 4): below 4 % over DPO with Gemma2-2B, similar with Llama-3-8B, larger over SimPO"


def overheads(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Percent that each method's step takes longer, with quartiles over steps: both sides took the same pairs."""
    sides = found["sides"]
    rows = []
    for method, (base, with_reference) in BASES.items():
        row: dict[str, Any] = {"method": method, "median_seconds": sides[method]["median"]}
        for label, other in (("over_base", base), ("over_base_and_reference", with_reference)):
            steps = zip(sides[method]["seconds"], sides[other]["seconds"], strict=True)
            low, _, high = quartiles([100 * (mine / theirs - 1) for mine, theirs in steps])
            row[label] = 100 * (sides[method]["median"] / sides[other]["median"] - 1)
            row[f"{label}_quartiles"] = [low, high]
            row[f"{label}_side"] = other
        peaks = [sides[name]["peak_bytes"] for name in (method, base)]
        row["peak_over_base"] = None if None in peaks else 100 * (peaks[0] / peaks[1] - 1)
        rows.append(row)
    return rows


def show_overheads(rows: list[dict[str, Any]]) -> None:
    """The table for the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(title="overhead of a step", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("method", no_wrap=True)
    for column in ("step, s", "over base, %", "quartiles", "with reference pass, %", "quartiles", "memory, %"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row['median_seconds']:.3f}"]
        for label in ("over_base", "over_base_and_reference"):
            low, high = row[f"{label}_quartiles"]
            cells += [f"{row[label]:+.1f}", f"{low:+.1f} to {high:+.1f}"]
        peak = row["peak_over_base"]
        table.add_row(row["method"], *cells, "" if peak is None else f"{peak:+.1f}")
    show(table)
    print(PAPER)


def draw_overheads(rows: list[dict[str, Any]], path: Path) -> None:
    """Two bars for each method, and the paper's 4 % as a line."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, (label, name) in enumerate((("over_base", "over its base"), ("over_base_and_reference", "and a reference pass"))):
        axes.bar([place + 0.4 * index for place in range(len(rows))], [row[label] for row in rows], 0.38, label=name)
    axes.axhline(4, color="gray", linestyle="--", label="paper: below 4 % over DPO")
    axes.set_xticks([place + 0.2 for place in range(len(rows))], [row["method"] for row in rows])
    axes.set_ylabel("longer step, %")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
