"""SIGTERM and SIGINT: the first lets a step finish and its state be saved, the second ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from ganpo_core.errors import Stop, StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_PRESS = 1.0
"""Seconds in which a launcher of several processes may pass on a signal that they got themselves."""
BEFORE = "before the first step"


class Interrupts:
    """Catches the two signals while it is entered; use as a context, from the main thread.

    Raises StoppedError, where it ends, for a signal that came while there was no step to finish.
    """

    def __init__(self, several_processes: bool = False) -> None:
        self.number = 0
        """Of the first signal, 0 before it."""
        self.can_finish = False
        """Set while there is a step to finish: outside, the first signal ends the run as well."""
        self._grace = SAME_PRESS if several_processes else 0.0
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is not None and self.number and not self.can_finish:
            # Also where somebody on the way out turned it into an error of their own.
            raise StoppedError(self.number, BEFORE) from error

    def _catch(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.number:
            if time.monotonic() - self._since >= self._grace:
                os.write(2, f"{name} again: stopping at once; what was saved before is untouched\n".encode())
                os._exit(128 + number)
            return
        self.number, self._since = number, time.monotonic()
        if not self.can_finish:
            raise Stop(f"stopped by {name} {BEFORE}")
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"{name}: finishing this step, then saving; once more to stop at once\n".encode())
