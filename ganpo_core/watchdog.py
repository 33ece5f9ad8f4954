"""Where every process of a run is, and an end with a reason where one of them waits for ever.

Each process writes its phase to a file beside the run, once a second, and reads those of the others. A phase that lasts too
long, or a process of this machine that is gone, ends the waiting ones: a collective has no other way to learn of it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ganpo_core.errors import first_line
from ganpo_core.redact import redact

FOLDER = ".processes"
"""Of the output folder, where the phases are written."""
DEFAULT = 600.0
"""Seconds, with several processes."""
BETWEEN = "between two phases (data, observers, reports)"
EXIT_CODE = 70
"""Of a process that the watchdog ends."""


@dataclass(frozen=True)
class Place:
    """Where a process is."""

    phase: str
    step: int
    since: float
    """On the monotonic clock of the process."""
    patience: float
    """How many times longer than the limit the phase may take."""


class Watchdog:
    """Follows this process through its phases, and the others through their files, while `watching`."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        num_processes: int,
        seconds: float | None,
        wait_for_everyone: Callable[[], object] = lambda: None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        """`seconds` None means the default with several processes and no limit with one; 0 means no limit."""
        self.rank, self.num_processes = rank, num_processes
        self.step = 0
        given = (DEFAULT if num_processes > 1 else 0.0) if seconds is None else seconds
        self.limit: float | None = given or None
        self._folder = folder / FOLDER
        self._wait_for_everyone, self._leave = wait_for_everyone, leave
        self._place = Place(BETWEEN, 0, time.monotonic(), 1.0)
        self._stop = Event()

    @contextmanager
    def phase(self, name: str, patience: float = 1.0) -> Iterator[None]:
        """A part of the step that has a name; inside of another, the inner one counts."""
        outer = self._place
        self._place = Place(name, self.step, time.monotonic(), patience)
        try:
            yield
        except Exception as error:
            if self.num_processes > 1 and isinstance(error, RuntimeError):
                who = f"process {self.rank} of {self.num_processes}"
                self._say(f"{who}: {name}, step {self.step}: {redact(first_line(error))}")
            raise
        finally:
            # What comes after an inner phase is a new beginning of the outer one.
            self._place = Place(outer.phase, self.step, time.monotonic(), outer.patience)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        if self.limit is None:
            yield
            return
        self._place = Place(BETWEEN, self.step, time.monotonic(), 1.0)
        if self.num_processes > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write()
            self._wait_for_everyone()  # files of an earlier launch, whose processes are gone, have been replaced
        thread = Thread(target=self._watch, name="ganpo-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        if self.num_processes > 1:  # not after an error: that this process is gone is then for the others to see
            self._file(self.rank).unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()  # by whoever is last

    def _watch(self) -> None:
        assert self.limit is not None
        pause = min(1.0, self.limit / 10)
        while not self._stop.wait(pause):
            if self.num_processes > 1:
                self._write()
            place = self._place
            lasted = time.monotonic() - place.since
            gone = self._gone()
            if gone is not None:
                self._end(f"{gone}; this one waits in: {place.phase}, step {place.step}")
            elif lasted > self.limit * place.patience:
                self._end(
                    f"{place.phase}, step {place.step}, has lasted {lasted:.0f} s (training.watchdog_seconds: "
                    f"{self.limit:g}){self._others()}"
                )

    def _end(self, reason: str) -> None:
        """Say why, show where every thread is, and leave: a thread that waits in a collective cannot be woken."""
        self._say(f"error: watchdog: process {self.rank} of {self.num_processes}: {reason}. The Python stack of each thread:")
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
        self._stop.set()
        self._leave(EXIT_CODE)

    def _others(self) -> str:
        """`; process 1 was last seen 9 s ago in: backward, step 7, since 612 s`."""
        told = []
        for rank, found in self._read().items():
            ago = time.time() - float(found["written"])
            told.append(
                f"process {rank} was last seen {ago:.0f} s ago in: {found['phase']}, step {found['step']}, "
                f"since {float(found['lasted']):.0f} s"
            )
        return "".join(f"; {each}" for each in told)

    def _gone(self) -> str | None:
        """What to say of a process of this machine that wrote its phase and is no more."""
        for rank, found in self._read().items():
            if found["host"] == socket.gethostname() and not _is_alive(int(found["pid"])):
                return (
                    f"process {rank} (pid {found['pid']}) is gone; it was last seen in: {found['phase']}, "
                    f"step {found['step']}"
                )
        return None

    def _write(self) -> None:
        place = self._place
        found = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "phase": place.phase,
            "step": place.step,
            "lasted": time.monotonic() - place.since,
            "written": time.time(),
        }
        aside = self._file(self.rank).with_suffix(".tmp")
        try:
            aside.write_text(json.dumps(found), encoding="utf-8")
            aside.replace(self._file(self.rank))
        except OSError as error:  # a full disk is for the run to notice, not for its watchdog to die of
            self._say(f"watchdog: process {self.rank}: {error}")

    def _read(self) -> Mapping[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for rank in range(self.num_processes):
            if rank != self.rank:
                try:
                    found[rank] = json.loads(self._file(rank).read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    continue  # not there yet, finished, or not a shared folder
        return found

    def _file(self, rank: int) -> Path:
        return self._folder / f"{rank}.json"

    @staticmethod
    def _say(message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state != "Z"  # dead, and its launcher has not looked yet
