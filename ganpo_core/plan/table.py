"""A plan for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ganpo_core.plan.run import Plan
from ganpo_core.plan.work import AHEAD


def plan_table(plan: Plan) -> Group:
    """Memory of a process, FLOPs of a step, and what the adversaries add."""
    shape, lengths, work = plan.shape, plan.lengths, plan.work
    prompt, chosen, rejected = lengths.mean
    head = [
        f"{shape.parameters:,} parameters, {shape.trainable:,} of them trained; "
        f"{shape.body / 1e9:.3g}e9 in the body, {shape.head / 1e9:.3g}e9 in the head",
        f"lengths ({lengths.origin}): prompt {prompt:.0f}, chosen {chosen:.0f}, rejected {rejected:.0f} tokens on average, "
        f"{' / '.join(f'{value:.0f}' for value in lengths.median)} median; batches {plan.layout}",
    ]
    memory = _table(f"memory of a process, {plan.processes} in all", ("", "GB"))
    _rows(memory, plan.memory.resident, 1e9)
    _rows(memory, plan.memory.passing, 1e9)
    memory.add_row("in all, largest micro-batch", f"{plan.memory.total / 1e9:.2f}")
    flops = _table(f"work of a step, {plan.pairs_per_step} pairs", ("", "TFLOP", "share"))
    for name, value in work.parts.items():
        flops.add_row(name, f"{value * plan.pairs_per_step / 1e12:.4g}", f"{value / work.total:.2%}")
    flops.add_section()
    flops.add_row("in all", f"{work.total * plan.pairs_per_step / 1e12:.4g}", "")
    foot = []
    if work.total > work.base:
        reads = " that also runs the reference" if work.base_with_reference > work.base else ""
        foot.append(f"analytic overhead of the critics: {work.overhead_of_critics:.4f}x the run without them{reads}")
        foot.append(f"                   of everything: {work.overhead:.4f}x the run without adversaries")
        if AHEAD in work.parts:
            foot.append(
                f"{AHEAD}: gradients accumulate, and these adversaries need the whole step's latents first; "
                "`schedule: simultaneous` with `means_order: use_then_update` does not"
            )
    return Group(Text("\n".join(head)), memory, flops, Text("\n".join(foot)))


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _rows(table: Table, values: Mapping[str, float], unit: float) -> None:
    for name, value in values.items():
        table.add_row(name, f"{value / unit:.2f}" if value else "none")
    table.add_section()
