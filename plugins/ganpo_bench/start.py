"""How long the command line takes to answer, beside a bare `import torch`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.table import Table

from ganpo_bench.report import show
from ganpo_core import GanpoError

RUN = """\
model: {path: model}
data: {path: pairs.jsonl}
objective: {use: dpo}
latents: {use: hidden_state}
discriminator: {use: transformer}
divergence: {use: ragan}
adversary: {weight: 1.0}
output_dir: out
"""


def time_start(repeats: int) -> dict[str, Any]:
    """Time the commands that answer without a model, print the table, and return it."""
    ganpo = [sys.executable, "-m", "ganpo_core"]
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "ganpo --help": [*ganpo, "--help"],
        "ganpo plugins": [*ganpo, "plugins"],
        "ganpo check RUN": [*ganpo, "check", "run.yaml"],
    }
    with tempfile.TemporaryDirectory(prefix="ganpo-bench-") as work:
        folder = Path(work)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}", encoding="utf-8")
        (folder / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
        (folder / "run.yaml").write_text(RUN, encoding="utf-8")
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):  # in turns, so that a busy moment does not fall on one of them alone
            for name, command in commands.items():
                seconds[name].append(_time(command, folder))
    torch = median(seconds["import torch"])
    table = Table(title="start", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("command", "median, s", "least, s", "over import torch, s"):
        table.add_column(column, justify="left" if column == "command" else "right", no_wrap=True)
    for name, found in seconds.items():
        table.add_row(name, f"{median(found):.2f}", f"{min(found):.2f}", f"{median(found) - torch:+.2f}")
    show(table)
    return {"seconds": seconds, "over_torch": {name: median(found) - torch for name, found in seconds.items()}}


def _time(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode:
        raise GanpoError(f"bench start: `{' '.join(command[1:])}` failed: {done.stderr.strip()}")
    return elapsed
