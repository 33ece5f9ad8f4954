"""Disks that are full, read-only or missing, folders that vanish, and two runs on one folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganpo_faults.site import GAME, Site
from ganpo_faults.state import differences, final_state, last_line, newest_checkpoint
from ganpo_faults.trial import Family, Trial

MODEL = {"disable_dropout": False}


def run(site: Site, trials: int) -> Iterator[Trial]:
    """All cases, or the first `trials` of them in the short form."""
    path = _run_file(site, "whole")
    code, text = site.ganpo("train", path, "--resume")
    if code != 0:
        yield Trial("a run that nothing happens to", False, last_line(text))
        return
    cases = [_two_runs, _too_large, _missing_disk, _in_a_file, _read_only, _full_disk, _moved_away]
    for case in cases[:trials]:
        yield from case(site)


def _run_file(site: Site, name: str, output: Path | None = None, **training: object) -> Path:
    model = {"path": str(site.model), **MODEL}
    options = {"max_steps": 6, "save_steps": 1, "save_total_limit": None, **training}
    return site.run_file(name, **GAME, model=model, training=options, output_dir=str(output or site.folder / name))


def _two_runs(site: Site) -> Iterator[Trial]:
    """The second names the first, and touches nothing; the first ends as if it had been alone."""
    path, folder = _run_file(site, "two"), site.folder / "two"
    first = site.start("train", path, "--resume", log="two.log")
    while not (folder / "checkpoints" / "step-00000001").exists() and first.wait(0) is None:
        time.sleep(0.001)
    first.send(signal.SIGSTOP)
    before = _contents(folder)
    code, text = site.ganpo("train", path, "--resume")
    named = f"in use by process {first.pid}" in text
    untouched = _contents(folder) == before
    first.send(signal.SIGCONT)
    first.wait()
    wrong = differences(final_state(site.folder / "whole"), folder)
    passed = code == 1 and named and untouched and not wrong
    yield Trial("two runs on one folder", passed, f"{last_line(text)} {wrong}{'' if untouched else ' (files changed)'}")


def _too_large(site: Site) -> Iterator[Trial]:
    """The system refuses a file in the middle of a save, each of the larger ones in turn."""
    whole = site.folder / "whole"
    sizes = sorted({path.stat().st_size for path in newest_checkpoint(whole).iterdir() if path.stat().st_size > 4096})
    for number, size in enumerate(sizes):
        name = f"cut_{number}"
        path, folder = _run_file(site, name), site.folder / name
        shutil.copytree(whole, folder)
        for part in ("policy", "adversary", *(f"checkpoints/step-{step:08d}" for step in (4, 5, 6))):
            shutil.rmtree(folder / part)
        process = site.start("train", path, "--resume", log=f"{name}.log", limits={"RLIMIT_FSIZE": size - 1})
        code, text = process.wait(), process.output()
        yield _judge(site, f"no file may grow beyond {size - 1:,} bytes", path, folder, code, text, "step-00000003")


def _full_disk(site: Site) -> Iterator[Trial]:
    """A file system of its own that fills up while checkpoints are kept; then it grows."""
    each = sum(file.stat().st_size for file in newest_checkpoint(site.folder / "whole").iterdir())
    with _mounted(site.folder / "disk", f"size={int(each * 3.4) + 200_000}") as disk:
        if disk is None:
            yield Trial("a disk that fills up", True, "not run: no right to mount; the limit of file sizes stands for it")
            return
        path, folder = _run_file(site, "full", disk / "full"), disk / "full"
        code, text = site.ganpo("train", path, "--resume")
        newest = newest_checkpoint(folder).name
        subprocess.run(["mount", "-o", f"remount,size={each * 40}", str(disk)], check=True)
        yield _judge(site, "a disk that fills up", path, folder, code, text, newest)


def _judge(
    site: Site, name: str, path: Path, folder: Path, code: int | None, text: str, newest: str
) -> Trial:
    """It stopped naming bytes, left no half of anything, and goes on once there is room."""
    reason = last_line(text)
    leftovers = [found.name for found in folder.rglob("*.tmp")]
    if code != 1 or "bytes" not in reason or leftovers or newest_checkpoint(folder).name != newest:
        return Trial(name, False, f"exit {code}: {reason}; left {leftovers}")
    code, text = site.ganpo("train", path, "--resume")
    wrong = f"restart: exit {code}: {last_line(text)}" if code != 0 else differences(final_state(site.folder / "whole"), folder)
    return Trial(name, not wrong, wrong or reason)


def _read_only(site: Site) -> Iterator[Trial]:
    with _mounted(site.folder / "locked", "size=1m,ro") as disk:
        folder = disk or site.folder / "locked"
        if disk is None:
            folder.chmod(0o555)
        yield _refused(site, "a read-only folder", _run_file(site, "read_only", folder / "out"))


def _missing_disk(site: Site) -> Iterator[Trial]:
    disk = Path("/mnt/ganpo-no-such-disk")
    trial = _refused(site, "a disk that is not mounted", _run_file(site, "missing", disk / "out"))
    yield Trial(trial.name, trial.passed and not disk.exists(), trial.detail)


def _in_a_file(site: Site) -> Iterator[Trial]:
    (site.folder / "a_file").write_text("", encoding="utf-8")
    yield _refused(site, "a file where a folder should be", _run_file(site, "in_a_file", site.folder / "a_file" / "out"))


def _moved_away(site: Site) -> Iterator[Trial]:
    """The folder vanishes during the run: nothing may be written where it was."""
    path, folder = _run_file(site, "moved", max_steps=400, save_total_limit=2), site.folder / "moved"
    process = site.start("train", path, "--resume", log="moved.log")
    while not (folder / "checkpoints" / "step-00000002").exists() and process.wait(0) is None:
        time.sleep(0.001)
    folder.rename(site.folder / "elsewhere")
    code, reason = process.wait(), last_line(process.output())
    passed = code == 1 and not folder.exists() and "error" in reason
    yield Trial("the folder is moved away during the run", passed, f"exit {code}: {reason}")


def _refused(site: Site, name: str, path: Path) -> Trial:
    """One line, before rows are read or models loaded."""
    code, text = site.ganpo("train", path, log=f"{path.stem}.log")
    lines = [line for line in text.splitlines() if line.strip()]
    return Trial(name, code == 1 and len(lines) == 1 and lines[0].startswith("error: output_dir"), last_line(text))


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path | None]:
    """A small file system in memory; None where mounting is not allowed."""
    folder.mkdir()
    allowed = shutil.which("mount") is not None and os.geteuid() == 0
    done = allowed and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if not done or done.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FAMILY = Family(
    name="disks",
    title="disk full, file too large, read-only, missing mount, folder moved away, two runs on one folder",
    must="one-line reason, nothing lost",
    peers="a partial folder is selected",
    trials=100,
    run=run,
    short=1,
)
