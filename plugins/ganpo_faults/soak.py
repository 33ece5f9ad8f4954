"""A thousand steps with everything on: memory and open files must stay where they were after the warm-up."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ganpo_faults.site import GAME, Site
from ganpo_faults.state import last_line
from ganpo_faults.trial import Family, Trial

WATCH = """\
import json, os
from ganpo_core import hookimpl

PAGE = os.sysconf("SC_PAGE_SIZE")

@hookimpl
def ganpo_step_finished(report):
    if report.step % 10 == 0:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * PAGE
        with open(PATH, "a") as file:
            file.write(json.dumps([report.step, resident, len(os.listdir("/proc/self/fd"))]) + "\\n")
"""
WARM_UP = 0.4
"""Share of the steps before memory has to hold still: allocators and caches fill up first."""
MOST = 1.0
"""MB per 100 steps."""
EACH_TRIAL = 1000


def run(site: Site, trials: int) -> Iterator[Trial]:
    """`trials` runs of a thousand steps (one of two hundred in the short form), with saves, logs and evaluations."""
    steps = EACH_TRIAL if trials > 1 else 200
    for name, sections in (("critics", GAME), ("plain", {}))[: max(1, trials - 1)]:
        path = site.folder / f"{name}.jsonl"
        plugin = site.folder / f"watch_{name}.py"
        plugin.write_text(WATCH.replace("PATH", repr(str(path))), encoding="utf-8")
        run_file = site.run_file(
            f"soak_{name}",
            **sections,
            plugins=[str(plugin)],
            data={"path": str(site.pairs), "eval_path": str(site.pairs)},
            training={"max_steps": steps, "save_steps": steps // 20, "eval_steps": steps // 10, "logging_steps": 5},
        )
        code, text = site.ganpo("train", run_file, "--resume", timeout=3600)
        if code != 0:
            yield Trial(f"{name}: {steps} steps", False, f"exit {code}: {last_line(text)}")
            continue
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        late = [row for row in rows if row[0] > WARM_UP * steps]
        slope = _slope([row[0] for row in late], [row[1] / 1e6 for row in late]) * 100
        files = sorted({row[2] for row in late})
        passed = slope < MOST and len(files) == 1
        yield Trial(f"{name}: {steps} steps", passed, f"{slope:+.3f} MB per 100 steps, open files {files}")


def _slope(xs: list[float], ys: list[float]) -> float:
    """Of the straight line of least squares."""
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


FAMILY = Family(
    name="soak",
    title="1,000 steps with saves, logs and evaluations",
    must="< 1 MB growth per 100 steps, constant open files",
    peers="",
    trials=3,
    run=run,
    short=1,
)
