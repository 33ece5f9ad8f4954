"""The paper's figure 3 both ways: win rate and strict validity against temperature, as sampled and at matched entropy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ganpo_core import GanpoError
from ganpo_lab.configurations import REFERENCE
from ganpo_lab.evidence import Evidence, Setting
from ganpo_lab.measure import TEMPERATURES


def draw_temperatures(evidence: Evidence, path: Path) -> None:
    """One line a row that was measured in any world, the reference dashed. Raises GanpoError without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise GanpoError("lab claims: the figure needs matplotlib; install it with `pip install 'ganpo[report]'`") from error

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained", sharex=True, sharey="row")
    reads = ((False, "as sampled"), (True, "at the reference's token entropy"))
    for line, (measure, name) in enumerate((("win", "win rate against the reference"), ("strict", "strictly valid"))):
        for column, (matched, read) in enumerate(reads):
            axes = panels[line][column]
            for row in evidence.plan.rows:
                seeds = evidence.seeds(row.name)
                if not seeds:
                    continue
                heights = [
                    np.mean([getattr(evidence.measured(row.name, seed, Setting(at, matched)), measure) for seed in seeds])
                    for at in TEMPERATURES
                ]
                style = "k--" if row.name == REFERENCE else "o-"
                axes.plot(TEMPERATURES, heights, style, label=f"{row.name} ({len(seeds)})", markersize=4, linewidth=1.3)
            axes.set(title=f"{name}, {read}", xlabel="temperature" if not matched else "the reference's temperature")
            axes.grid(alpha=0.3)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
