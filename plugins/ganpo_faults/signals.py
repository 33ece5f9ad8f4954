"""SIGTERM and SIGINT: within a step, within a save, before the first step, twice, and in several processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

from ganpo_faults.group import start_group
from ganpo_faults.site import GAME, Process, Site
from ganpo_faults.state import differences, final_state, finish, last_line
from ganpo_faults.trial import Family, Trial

SLOW = """\
import time
from ganpo_core import hookimpl

@hookimpl
def ganpo_step_finished(report):
    time.sleep(SECONDS)
"""
SOON = 5.0
"""Seconds in which a run must have saved and gone; it waits for the machine, not for another step."""
STEPS = 8


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Each of the cases, up to `trials` of them."""
    slow = site.folder / "slow.py"
    slow.write_text(SLOW.replace("SECONDS", "0.05"), encoding="utf-8")
    slower = site.folder / "slower.py"
    slower.write_text(SLOW.replace("SECONDS", "30"), encoding="utf-8")
    whole = _run_file(site, "whole", slow)
    code, text = site.ganpo("train", whole, "--resume")
    if code != 0:
        yield Trial("a run that nothing happens to", False, last_line(text))
        return
    expected = final_state(site.folder / "whole")
    cases = [("SIGTERM in a step", signal.SIGTERM, False), ("SIGINT in a step", signal.SIGINT, False)]
    cases += [("SIGTERM in a save", signal.SIGTERM, True), ("SIGINT in a save", signal.SIGINT, True)]
    for made, (name, number, in_save) in enumerate(cases[:trials]):
        path, folder = _run_file(site, f"stopped_{made}", slow), site.folder / f"stopped_{made}"
        process = site.start("train", path, "--resume", log=f"{path.stem}.log")
        _wait_for(process, folder / "checkpoints", "step-00000003.tmp" if in_save else "step-00000003")
        process.send(number)
        code = finish(site, process)
        wrong = "" if code == 128 + number else f"exit {code}, not {128 + number}"
        said = last_line(process.output())
        if not wrong:
            code, text = site.ganpo("train", path, "--resume")
            wrong = f"restart: exit {code}: {last_line(text)}" if code != 0 else differences(expected, folder)
        yield Trial(name, not wrong, wrong or said)
    if trials > len(cases):
        yield _before_the_first_step(site, slow)
        yield _twice(site, slower)
        yield _two_processes(site)


def _run_file(site: Site, name: str, plugin: Path) -> Path:
    training = {"max_steps": STEPS, "save_steps": 1}
    model = {"path": str(site.model), "disable_dropout": False}
    return site.run_file(name, **GAME, model=model, plugins=[str(plugin)], training=training)


def _wait_for(process: Process, folder: Path, name: str, timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while not (folder / name).exists() and time.monotonic() < deadline and process.wait(0) is None:
        time.sleep(0.0005)


def _before_the_first_step(site: Site, plugin: Path) -> Trial:
    path, folder = _run_file(site, "early", plugin), site.folder / "early"
    process = site.start("train", path, "--resume", log="early.log")
    _wait_for(process, folder, ".lock")
    process.send(signal.SIGTERM)
    code = finish(site, process)
    return Trial("SIGTERM while models load", code == 143, f"exit {code}: {last_line(process.output())}")


def _twice(site: Site, plugin: Path) -> Trial:
    """Within the 30 seconds that an observer sleeps: the first waits for it, the second does not."""
    path, folder = _run_file(site, "twice", plugin), site.folder / "twice"
    process = site.start("train", path, "--resume", log="twice.log")
    _wait_for(process, folder, "run.yaml")
    time.sleep(2.0)
    process.send(signal.SIGTERM)
    still_there = process.wait(1.0) is None
    process.send(signal.SIGTERM)
    start = time.monotonic()
    code = finish(site, process)
    seconds = time.monotonic() - start
    passed = still_there and code == 143 and seconds < SOON
    return Trial("a second SIGTERM ends it at once", passed, f"exit {code} after {seconds:.1f} s")


def _two_processes(site: Site) -> Trial:
    """Only one of two processes gets the signal; both save and leave."""
    training = {"max_steps": 400, "save_steps": None}
    path = site.run_file("pair", **GAME, training=training)
    folder = site.folder / "pair"
    group = start_group(site, path, 2)
    _wait_for(group.processes[0], folder, "metrics.jsonl")
    time.sleep(1.0)
    group.processes[1].send(signal.SIGTERM)
    codes = [process.wait(60) for process in group.processes]
    saved = [found.name for found in (folder / "checkpoints").glob("step-*")]
    if None in codes:
        group.kill(0)
    return Trial("SIGTERM to one of two processes", codes == [143, 143] and len(saved) == 1, f"exits {codes}, saved {saved}")


FAMILY = Family(
    name="signals",
    title="SIGTERM and SIGINT in a step, in a save, while models load, twice, to one of two processes",
    must="saved within a step, exit 143 or 130, then bitwise equal",
    peers="a timer of 3 s; its sentinel is never read",
    trials=7,
    run=run,
    short=1,
)
