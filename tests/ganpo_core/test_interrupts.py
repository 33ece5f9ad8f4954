"""The first signal lets a step finish, the second does not wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerBase

from ganpo_core.data.formats import ChatPair
from ganpo_core.data.render import render_chat
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


class Struck:
    """A tokenizer in whose template the signal arrives."""

    chat_template = "a template"

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return "rendered all the same"


def test_a_signal_inside_of_a_chat_template_is_no_flaw_of_the_row() -> None:
    """A template is a program, so its exceptions are flaws of rows: the signal must be none of them."""
    pair = ChatPair([{"role": "user", "content": "a"}], *([{"role": "assistant", "content": text}] for text in "bc"))
    with pytest.raises(StoppedError, match=r"^stopped by SIGTERM before the first step$") as caught, Interrupts():
        render_chat(cast(PreTrainedTokenizerBase, Struck()), pair, (), "rows")
    assert caught.value.exit_code == 143


def test_what_others_make_of_a_signal_on_its_way_out_is_still_the_signal() -> None:
    def wraps() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise ValueError("some library's own") from error

    with pytest.raises(StoppedError, match="stopped by SIGINT") as caught, Interrupts():
        wraps()
    assert caught.value.exit_code == 130


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
