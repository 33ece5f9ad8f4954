"""Where every process is, and an end with a reason where one waits for ever."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import ganpo_core
from ganpo_core.errors import ConfigError
from ganpo_core.parallel import refuse_other_engines
from ganpo_core.watchdog import BETWEEN, EXIT_CODE, FOLDER, Watchdog

MakeRun = Callable[..., dict[str, Any]]


def watchdog(folder: Path, codes: list[int], seconds: float | None = 0.1, processes: int = 1) -> Watchdog:
    return Watchdog(folder, 0, processes, seconds, leave=codes.append)


def wait_for(codes: list[int]) -> None:
    deadline = time.monotonic() + 10
    while not codes and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_phase_that_lasts_too_long_is_named_and_ends_the_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    dog = watchdog(tmp_path, codes)
    dog.step = 7
    with dog.watching(), dog.phase("backward"):
        wait_for(codes)
    assert codes == [EXIT_CODE]
    said = capfd.readouterr().err
    assert "error: watchdog: process 0 of 1: backward, step 7, has lasted" in said
    assert "test_watchdog.py" in said  # the stacks show where this thread waits


def test_a_phase_may_be_given_more_time_and_time_between_phases_counts_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    dog = watchdog(tmp_path, codes)
    with dog.watching():
        with dog.phase("save", patience=1000):
            time.sleep(0.3)
        assert not codes
        wait_for(codes)
    assert BETWEEN in capfd.readouterr().err


def test_an_inner_phase_is_progress_of_the_outer_one(tmp_path: Path) -> None:
    codes: list[int] = []
    dog = watchdog(tmp_path, codes, seconds=1.0)
    with dog.watching(), dog.phase("evaluate"):
        for _ in range(15):
            with dog.phase("policy pass"):
                time.sleep(0.1)
    assert not codes


@pytest.mark.parametrize(("seconds", "processes", "limit"), [(None, 1, None), (None, 2, 600.0), (0.0, 2, None), (5.0, 1, 5.0)])
def test_the_limit_is_that_of_several_processes(
    seconds: float | None, processes: int, limit: float | None, tmp_path: Path
) -> None:
    assert watchdog(tmp_path, [], seconds, processes).limit == limit


def other(folder: Path, pid: int, phase: str = "policy pass") -> None:
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    found = {"host": socket.gethostname(), "pid": pid, "phase": phase, "step": 3, "lasted": 9.0, "written": time.time()}
    (folder / FOLDER / "1.json").write_text(json.dumps(found))


def test_another_process_that_is_gone_is_noticed_long_before_the_limit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    other(tmp_path, child.pid)
    codes: list[int] = []
    dog = watchdog(tmp_path, codes, seconds=600, processes=2)
    with dog.watching(), dog.phase("reduce"):
        wait_for(codes)
    said = capfd.readouterr().err
    assert f"process 1 (pid {child.pid}) is gone; it was last seen in: policy pass, step 3; this one waits in: reduce" in said


def test_the_others_are_told_of_and_own_traces_are_removed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other(tmp_path, os.getpid())
    codes: list[int] = []
    dog = watchdog(tmp_path, codes, seconds=0.1, processes=2)
    with dog.watching(), dog.phase("reduce"):
        wait_for(codes)
    assert "process 1 was last seen 0 s ago in: policy pass, step 3, since 9 s" in capfd.readouterr().err
    assert not (tmp_path / FOLDER / "0.json").exists()


def test_the_run_file_sets_the_limit(tiny_run: MakeRun, tmp_path: Path) -> None:
    """A plugin that sleeps in the loss, in a process of its own."""
    (tmp_path / "sleepy.py").write_text(
        "import time\nfrom ganpo_core import hookimpl\n@hookimpl\ndef ganpo_step_finished(report):\n    time.sleep(60)\n"
    )
    training = {"max_steps": 2, "watchdog_seconds": 5, "save_steps": None}
    run = tiny_run(plugins=[str(tmp_path / "sleepy.py")], training=training)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = [sys.executable, "-m", "ganpo_core", "train", str(tmp_path / "run.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == EXIT_CODE
    assert f"process 0 of 1: {BETWEEN}, step 1, has lasted" in done.stderr
    assert 'sleepy.py", line 5 in ganpo_step_finished' in done.stderr


def test_a_killed_process_ends_the_other_with_rank_and_phase(tiny_run: MakeRun, tmp_path: Path) -> None:
    """Without a launcher that would end it: two processes that know each other by the usual variables."""
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\nfrom ganpo_core import hookimpl\n@hookimpl\n"
        f"def ganpo_step_finished(report):\n    pathlib.Path({str(tmp_path / 'started')!r}).touch(); time.sleep(0.2)\n"
    )
    training = {"max_steps": 500, "save_steps": None, "per_device_train_batch_size": 2}
    run = tiny_run(plugins=[str(tmp_path / "slow.py")], training=training)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = []
    for rank in range(2):
        environment = {
            **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "ganpo_core", "train", str(tmp_path / "run.yaml")]
        both.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    deadline = time.monotonic() + 90
    while not (tmp_path / "started").exists() and time.monotonic() < deadline and both[0].poll() is None:
        time.sleep(0.1)
    both[1].send_signal(signal.SIGKILL)
    _, said = both[0].communicate(timeout=60)
    both[1].communicate()
    assert both[0].returncode not in (0, None)
    assert "process 0 of 2: " in said
    assert ", step " in said


@pytest.mark.parametrize(
    ("variable", "value", "engine"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("ACCELERATE_USE_FSDP", "1", "accelerate's own FSDP plugin"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision is bf16, and model.dtype decides"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend is INDUCTOR"),
    ],
)
def test_other_engines_are_refused_with_what_to_do_instead(variable: str, value: str, engine: str) -> None:
    with pytest.raises(ConfigError, match=engine):
        refuse_other_engines({variable: value})


def test_the_launchers_own_defaults_are_no_other_engine() -> None:
    refuse_other_engines({"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_USE_FSDP": "false"})


def test_a_run_refuses_another_engine_before_anything_is_loaded(tiny_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="fsdp2"):
        ganpo_core.train(tiny_run())
