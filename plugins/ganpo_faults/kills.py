"""kill -9 at random moments, half of them inside a save; the same command again must end as if nothing had been."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ganpo_faults.group import Group, start_group
from ganpo_faults.site import GAME, Site, write_pairs
from ganpo_faults.state import differences, final_state, last_line
from ganpo_faults.trial import Family, Trial

STEPS = 8
LONGEST_SAVE = 0.03
"""Seconds into a save at which it is stopped at most; a save that was faster is let go, and the next one stopped."""


def run_alone(site: Site, trials: int) -> Iterator[Trial]:
    """One process, a save after every step."""
    yield from _run(site, trials, {}, 1)


def run_together(site: Site, trials: int) -> Iterator[Trial]:
    """Two processes, two sources, shared prompts packed, four micro-batches a step."""
    more = write_pairs(site.folder / "more.jsonl", 40, seed=4)
    sources = [{"path": str(site.pairs)}, {"path": str(more), "weight": 0.5}]
    training = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2, "packing": "shared"}
    yield from _run(site, trials, {"data": {"sources": sources}, "training": training}, 2)


def _run(site: Site, trials: int, sections: Mapping[str, Any], size: int) -> Iterator[Trial]:
    def run_file(name: str) -> Path:
        training = {"max_steps": STEPS, "save_steps": 1, **sections.get("training", {})}
        model = {"path": str(site.model), "disable_dropout": False}
        return site.run_file(name, **{**GAME, "model": model, **sections, "training": training})

    start = time.monotonic()
    code = start_group(site, run_file("whole"), size).wait()
    seconds = time.monotonic() - start
    if code != 0:
        yield Trial("a run that nothing happens to", False, f"exit {code}")
        return
    expected = final_state(site.folder / "whole")
    for number in range(trials):
        name = f"killed_{number}"
        path, folder = run_file(name), site.folder / name
        where = None
        while where is None:
            shutil.rmtree(folder, ignore_errors=True)
            group = start_group(site, path, size)
            # A run that ends before it is killed proves nothing: it is taken again.
            where = _kill_in_save(site, group, folder) if number % 2 == 0 else _kill_at(site, group, folder, seconds)
        code = start_group(site, path, size).wait()
        wrong = f"exit {code}: {last_line(_log(path))}" if code != 0 else differences(expected, folder)
        yield Trial(f"kill {number + 1}", not wrong, f"{where}. {wrong}" if wrong else where)
        if not wrong:
            shutil.rmtree(folder)


def _kill_at(site: Site, group: Group, folder: Path, seconds: float) -> str | None:
    """Kill one process at a moment within `seconds`; None where the run had ended."""
    moment = time.monotonic() + site.random.uniform(0, seconds)
    while time.monotonic() < moment and group.is_running():
        time.sleep(0.002)
    if not group.kill(site.random.randrange(len(group.processes))):
        return None
    leftovers = _being_filled(folder)
    return f"inside the save of {leftovers[0].stem}" if leftovers else "outside a save"


def _kill_in_save(site: Site, group: Group, folder: Path) -> str | None:
    """Kill while a folder is being filled: stop the process, look, and only then kill it."""
    wanted = site.random.choice([*(f"step-{step:08d}.tmp" for step in range(1, STEPS + 1)), "adversary.tmp", "policy.tmp"])
    delay = site.random.uniform(0, LONGEST_SAVE) * site.random.random()
    while group.is_running():
        found = [path.name for path in _being_filled(folder)]
        # Steps are waited for in order; the folders of the finished run come after all of them.
        reached = [name for name in found if name == wanted or (name.startswith("step-") and wanted < name)]
        if not reached:
            continue
        time.sleep(delay)
        group.stop(0)
        inside = _being_filled(folder)
        if inside:
            held = len(list(inside[0].iterdir()))
            return f"inside the save of {inside[0].stem}, {held} files written" if group.kill(0) else None
        group.go_on(0)
        delay /= 2
    group.kill(0)
    return None


def _being_filled(folder: Path) -> list[Path]:
    found = [*(folder / "checkpoints").glob("step-*.tmp"), folder / "adversary.tmp", folder / "policy.tmp"]
    return [path for path in found if path.is_dir()]


def _log(path: Path) -> str:
    found = [log.read_text(encoding="utf-8", errors="replace") for log in path.parent.glob(f"{path.stem}*.log")]
    return max(found, key=lambda text: "error" in text, default="")


ALONE = Family(
    name="kills",
    title="kill -9 at random times (half inside a save), restart without help, final state bitwise equal",
    must="200 of 200",
    peers="32 of 39, 7 dead ends",
    trials=200,
    run=run_alone,
    short=2,
)
TOGETHER = Family(
    name="kills_of_two",
    title="the same with accumulation 4, packing, two sources and 2 processes",
    must="50 of 50",
    peers="",
    trials=50,
    run=run_together,
    short=1,
)
