"""The paper's Figures 6 to 9 from training logs: mean margins, and reward accuracy, over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganpo_core import DataError
from ganpo_report.drawing import Curve, plot_curves, pyplot_figure
from ganpo_report.facts import as_text
from ganpo_report.runs import RunFolder

if TYPE_CHECKING:
    from rich.table import Table

KEYS = {"margin": "rewards/margins", "accuracy": "rewards/accuracies"}
PAPER = (
    "the paper's Figures 6 to 9 (arXiv 2601.22083): margins of GANPO above those of DPO and of SimPO throughout, on "
    "Gemma2-2B-it and Llama-3-8B-Instruct; given as curves, without values"
)


def measure(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Steps, margins and accuracies of every run. Raises DataError for a run that logged none."""
    found: dict[str, Any] = {}
    for run in runs:
        series = {name: run.series(key) for name, key in KEYS.items()}
        if not all(series.values()):
            raise DataError(
                f"{run.folder}: no margins in metrics.jsonl; unpaired data have none, and a run that has just begun has none yet"
            )
        found[run.name] = {
            "objective": run.settings.get("objective.use"),
            "divergence": ", ".join(run.divergences) or None,
            "seed": run.settings.get("seed"),
            "steps": series["margin"].steps,
            **{name: each.values for name, each in series.items()},
            "final": {name: each.late for name, each in series.items()},
        }
    return {"title": "Margins and reward accuracy over training", "runs": found, "paper": PAPER}


def table(found: dict[str, Any]) -> Table:
    """For the terminal."""
    from rich import box
    from rich.table import Table

    shown = Table(title=found["title"], title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    shown.caption, shown.caption_justify = f"Beside it: {PAPER}.", "left"
    for name in ("run", "objective", "beside it"):
        shown.add_column(name, no_wrap=True)
    for name in ("steps", "margin", "accuracy"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, run in found["runs"].items():
        final = run["final"]
        row = [name, str(run["objective"]), str(run["divergence"] or "–"), str(run["steps"][-1])]
        shown.add_row(*row, f"{final['margin']:.4g}", f"{final['accuracy']:.1%}")
    return shown


def write(found: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """`margins.json` and `margins.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    written, drawn = folder / "margins.json", folder / "margins.png"
    written.write_text(as_text(found), encoding="utf-8")
    figure, panels = pyplot_figure(2)
    labels = {"margin": "mean reward margin", "accuracy": "reward accuracy"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        curves = [Curve(run, each["steps"], each[name], colour=index) for index, (run, each) in enumerate(found["runs"].items())]
        plot_curves(axes, curves)
        axes.set(xlabel="step", ylabel=label)
        for line, curve in zip(axes.lines, curves, strict=True):
            line.set_label(curve.name)
    for text in panels[0].legend(frameon=False).get_texts():
        text.set_parse_math(False)  # a dollar in a name is no formula
    figure.suptitle("Margins over training (compare the paper's Figures 6 to 9)", fontsize=11)
    figure.savefig(drawn, dpi=150)
    return written, drawn
