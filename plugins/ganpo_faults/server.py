"""Starts `ganpo` in processes of its own, forked from one that has imported torch already: `python -m ganpo_faults.server`.

One JSON request a line on standard input, one JSON answer a line on standard output. A forked run is a whole process: it can be
killed, stopped and limited as any other, and it saves the seconds that imports take.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any


def serve() -> None:
    """Answer until standard input ends."""
    import torch

    torch.set_num_threads(1)
    # What a run imports on its way, imported once. Nothing here starts a thread, so that a fork is safe.
    import accelerate
    import datasets
    import transformers.models.llama.modeling_llama  # noqa: F401


    del accelerate, datasets
    answers = {"start": _start, "wait": _wait}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answers[request.pop("do")](**request)), flush=True)


def _start(arguments: list[str], environment: dict[str, str], output: str, limits: dict[str, int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.environ.update(environment)
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
        with Path(output).open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["ganpo", *arguments]
        from ganpo_core.cli import main

        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, timeout: float) -> Any:
    """The exit code, minus the signal for a killed process, or null if it still runs after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.002)


if __name__ == "__main__":
    serve()
