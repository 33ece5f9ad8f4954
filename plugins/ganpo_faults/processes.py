"""Two processes of which one dies, stops or sleeps: both end, and whoever waited says where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ganpo_core.watchdog import FOLDER
from ganpo_faults.site import GAME, Site
from ganpo_faults.trial import Family, Trial

LIMIT = 8
"""Seconds of the watchdog."""
WITHIN = 60
"""Seconds after the limit in which all processes must have ended."""
SLEEPER = """\
import os, time
from dataclasses import dataclass
from torch.nn.functional import logsigmoid
from ganpo_core import Objective, PairLoss, hookimpl

@dataclass(frozen=True)
class Sleeper(Objective):
    def loss(self, policy, reference):
        time.sleep(3600 if os.environ.get("RANK") == "1" and os.path.exists(SIGN) else 0.05)
        margin = policy.chosen.total - policy.rejected.total
        return PairLoss(-logsigmoid(margin), policy.chosen.total.detach(), policy.rejected.total.detach())

@hookimpl
def ganpo_objectives():
    return {"sleeper": Sleeper}
"""
"""An objective that sleeps for an hour on the second process, once a file is there."""


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Each fault in turn."""
    sign = site.folder / "sleep"
    (site.folder / "sleeper.py").write_text(SLEEPER.replace("SIGN", repr(str(sign))), encoding="utf-8")
    faults: Mapping[str, tuple[Callable[[int], None], tuple[str, ...]]] = {
        # Its launcher ends the other before that has waited, and says who it was.
        "one is killed": (lambda pid: os.kill(pid, signal.SIGKILL), ("local_rank: 1", "Signal 9 (SIGKILL)")),
        "one is stopped": (
            lambda pid: os.kill(pid, signal.SIGSTOP), ("error: watchdog: process 0 of 2: ", "process 1 was last seen")
        ),
        # Both reach the limit within the same second: whoever is first names the phase in which the other sleeps, or its own.
        "one sleeps in a plugin": (
            lambda pid: sign.touch(), ("error: watchdog: process ", "objective, step ", 'sleeper.py", line ')
        ),
    }
    for number in range(trials):
        name, (strike, words) = list(faults.items())[number % len(faults)]
        sign.unlink(missing_ok=True)
        yield _trial(site, f"{name}, {number}", strike, words)


def _trial(site: Site, name: str, strike: Callable[[int], None], words: tuple[str, ...]) -> Trial:
    training = {"max_steps": 100_000, "save_steps": 5, "watchdog_seconds": LIMIT, "per_device_train_batch_size": 2}
    folder = name.replace(", ", "_").replace(" ", "_")
    sections = {**GAME, "objective": {"use": "sleeper"}, "plugins": [str(site.folder / "sleeper.py")], "training": training}
    run_file = site.run_file(folder, **sections)
    output = site.folder / folder
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ganpo_core", "train", str(run_file)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = site.folder / f"{folder}.log"
    with log.open("wb") as file:
        launcher = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        pids = _wait_for_steps(output, launcher)
        if pids is None:
            return Trial(name, False, f"it did not come to train: {log.read_text(errors='replace')[-300:]}")
        strike(pids[1])
        start = time.monotonic()
        while time.monotonic() < start + LIMIT + WITHIN and (launcher.poll() is None or any(map(_is_running, pids))):
            time.sleep(0.2)
        took = time.monotonic() - start
        said = log.read_text(encoding="utf-8", errors="replace")
        ended = launcher.poll() not in (None, 0) and not any(map(_is_running, pids))
        missing = [word for word in words if word not in said]
        line = next((each for each in said.splitlines() if words[0] in each), "no line")
        return Trial(name, ended and not missing, f"all ended after {took:.0f} s: {line}" if ended else f"still there: {line}")
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


def _wait_for_steps(output: Path, launcher: subprocess.Popen[bytes]) -> list[int] | None:
    """The two processes, once both have taken some steps."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and launcher.poll() is None:
        if list((output / "checkpoints").glob("step-????????")):
            try:
                found = [json.loads((output / FOLDER / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
                return [int(each["pid"]) for each in found]
            except (OSError, ValueError):
                pass  # one of them is writing its file
        time.sleep(0.1)
    return None


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


FAMILY = Family(
    name="processes",
    title="two processes: one is killed, stopped, or sleeps in a plugin",
    must="all end within 60 s of the limit; the rank named, and the phase of whoever waits",
    peers="10 min, no phase",
    trials=3,
    run=run,
    short=1,
)
