"""What the demo shows: the table as text, JSON and Markdown, and two panels as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ganpo_lab.evaluate import Row

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("reward", "valid", "strict", "win", "length", "latent")
FOOTNOTE = (
    "reward: the oracle's, 0 to 3. valid: follows the grammar. strict: valid with exactly the keys asked for. win: "
    "against the reference's samples at the same T (at 1 for matched and colder rows). length: tokens. latent: mean "
    "squared difference of last hidden "
    "states to the reference's. T with *: the temperature that gives the reference's token entropy at T = 1; "
    "a policy that is merely surer of itself looks better at T = 1 and not there. One seed decides nothing."
)


SEEN_COLUMNS = ("agrees", "swapped")
SEEN_FOOTNOTE = (
    " agrees: answers with exactly the keys in the picture (what strict is here). swapped: the same with another prompt's "
    "picture shown, the control."
)


def make_table(rows: Sequence[Row]) -> Table:
    """For the terminal."""
    from rich import box
    from rich.table import Table

    table = Table(
        title="RecordWorld, held-out prompts",
        caption=_footnote(rows),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("T", no_wrap=True)
    for column in _columns(rows):
        table.add_column(column, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].policy != row.policy
        table.add_row(row.policy, _temperature(row), *_numbers(row), end_section=last)
    return table


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """`table.json` and `table.md`."""
    plain = [{key: value for key, value in asdict(row).items() if value is not None} for row in rows]
    (folder / "table.json").write_text(json.dumps(plain, indent=1), encoding="utf-8")
    columns = _columns(rows)
    lines = [f"| policy | T | {' | '.join(columns)} |", f"|---|---|{'---:|' * len(columns)}"]
    lines += [f"| {row.policy} | {_temperature(row)} | {' | '.join(_numbers(row))} |" for row in rows]
    (folder / "table.md").write_text("\n".join([*lines, "", _footnote(rows), ""]), encoding="utf-8")


def draw_curves(runs: Mapping[str, Path], path: Path) -> None:
    """Reward margins of every run, and what the discriminators of those that have some make of their groups."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (margins, scores) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, folder in runs.items():
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        training = [line for line in lines if "rewards/margins" in line]
        steps = [line["step"] for line in training]
        margins.plot(steps, [line["rewards/margins"] for line in training], label=name)
        for group, style in (("anchor", "-"), ("policy", "--"), ("cross", ":")):
            key = f"adversary/chosen/score_{group}"
            if training and key in training[0]:
                scores.plot(steps, [line[key] for line in training], style, label=f"{name}: {group}")
    margins.set(title="reward margin, training pairs", xlabel="step", ylabel="beta-scaled log-ratio, nats")
    scores.set(title="chosen discriminator, mean score of each group", xlabel="step", ylabel="logit")
    for axes in (margins, scores):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _columns(rows: Sequence[Row]) -> tuple[str, ...]:
    return (*COLUMNS, *SEEN_COLUMNS) if any(row.agrees is not None for row in rows) else COLUMNS


def _footnote(rows: Sequence[Row]) -> str:
    return FOOTNOTE + SEEN_FOOTNOTE if len(_columns(rows)) > len(COLUMNS) else FOOTNOTE


def _temperature(row: Row) -> str:
    return f"{row.temperature:.2f}*" if row.matched else f"{row.temperature:.2f}"


def _numbers(row: Row) -> list[str]:
    shares = [f"{value:.3f}" for value in (row.reward, row.valid, row.strict, row.win)]
    seen = [f"{value:.3f}" for value in (row.agrees, row.swapped) if value is not None]
    return [*shares, f"{row.length:.1f}", f"{row.latent:.4f}", *seen]
