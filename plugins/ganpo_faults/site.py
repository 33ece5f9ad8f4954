"""Where faults are staged: a tiny random model, a few pairs, and processes that run `ganpo` on them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

WORDS = tuple(f"w{index}" for index in range(24))
GAME: Mapping[str, Any] = {
    "latents": {"use": "hidden_state"},
    "divergence": {"use": "ragan"},
    "discriminator": {"use": "transformer", "hidden_dim": 8, "num_heads": 2, "num_layers": 1, "max_positions": 32},
    "adversary": {"preset": "paper"},
}
"""The sections that put two critics beside the policy."""


@dataclass(frozen=True)
class Process:
    """A run of `ganpo` that the server started."""

    server: Server
    pid: int
    log: Path

    def wait(self, timeout: float = 120.0) -> int | None:
        """The exit code, minus the signal that ended it, or None if it still runs after `timeout` seconds."""
        code: int | None = self.server.ask(do="wait", pid=self.pid, timeout=timeout)
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def output(self) -> str:
        """Everything it printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


class Server:
    """A process that has imported torch and forks runs of `ganpo`."""

    def __init__(self) -> None:
        """Nothing is started before it is asked for."""
        self._process: subprocess.Popen[str] | None = None

    def _started(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "ganpo_faults.server"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **request: Any) -> Any:
        """The server's answer."""
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the server of runs ended; its error is above")
        return json.loads(answer)

    def close(self) -> None:
        """End the server."""
        if self._process is None:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Site:
    """A folder to break things in."""

    folder: Path
    server: Server
    seed: int = 0
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.random = random.Random(self.seed)

    @cached_property
    def model(self) -> Path:
        """A random two-layer Llama of width 16 with dropout, and a tokenizer of words."""
        # Written by the server, which has torch loaded already.
        return Path(self.server.ask(do="model", folder=str(self.folder / "model"), words=WORDS))

    @cached_property
    def pairs(self) -> Path:
        """48 pairs of random words, of ragged lengths."""
        return write_pairs(self.folder / "pairs.jsonl", 48, seed=3)

    def run_file(self, name: str, **sections: Any) -> Path:
        """Write `NAME.yaml`, a run of the tiny model into the folder `NAME`; sections replace or join the defaults."""
        training = {"learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 4, "logging_steps": 3}
        run = {
            "model": {"path": str(self.model)},
            "data": {"path": str(self.pairs)},
            "objective": {"use": "dpo"},
            "output_dir": str(self.folder / name),
            **sections,
            "training": {**training, **sections.get("training", {})},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(run, sort_keys=False), encoding="utf-8")
        return path

    def start(
        self,
        *arguments: object,
        log: str = "run.log",
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> Process:
        """Start `ganpo ARGUMENTS` in a process of its own; `limits` are names of the `resource` module."""
        path = self.folder / log
        words = [str(argument) for argument in arguments]
        pid: int = self.server.ask(
            do="start",
            arguments=words,
            environment=dict(environment or {}),
            output=str(path),
            limits=dict(limits or {}),
        )
        return Process(self.server, pid, path)

    def ganpo(self, *arguments: object, log: str = "run.log", timeout: float = 120.0) -> tuple[int | None, str]:
        """Run `ganpo ARGUMENTS` to its end: its exit code and what it printed this time."""
        path = self.folder / log
        before = path.stat().st_size if path.exists() else 0
        code = self.start(*arguments, log=log).wait(timeout)
        return code, path.read_bytes()[before:].decode("utf-8", errors="replace")


def write_pairs(path: Path, count: int, seed: int, words: Sequence[str] = WORDS) -> Path:
    """Preference pairs of random words."""
    draw = random.Random(seed)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    rows = [
        {"prompt": f"<bos> {text(1, 5)}", "chosen": f" {text(2, 9)}", "rejected": f" {text(1, 7)}"} for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
