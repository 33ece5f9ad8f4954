"""The first signal lets a step finish, the second does not wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ganpo_core.errors import StoppedError
from ganpo_core.interrupts import Interrupts

TWICE = "import os, signal, time\nfrom ganpo_core.interrupts import Interrupts\n"
TWICE += "with Interrupts(GRACE) as caught:\n    caught.can_finish = True\n    os.kill(os.getpid(), signal.SIGTERM)\n"
TWICE += "    os.kill(os.getpid(), signal.SIGINT)\n    print('still here', caught.number)\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_the_first_step_a_signal_ends_the_run(number: signal.Signals, code: int) -> None:
    with pytest.raises(StoppedError, match=f"stopped by {number.name} before the first step") as caught, Interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code


def test_during_a_step_it_is_noted_and_the_handlers_return(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as caught:
        caught.can_finish = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert caught.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert "SIGTERM: finishing this step, then saving; once more to stop at once" in capfd.readouterr().err


def test_a_second_signal_ends_the_process_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.replace("GRACE", "False")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert "SIGINT again: stopping at once" in done.stderr


def test_a_launcher_may_pass_a_signal_on_that_its_processes_got_themselves() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWICE.replace("GRACE", "True")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "still here 15\n")
