"""What is timed: a child process that keeps its model and takes a block of steps when it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ganpo_bench.peer
from ganpo_core import GanpoError


@dataclass
class Side:
    """One side of the comparison, and everything that it answered."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path
    seconds: list[float] = field(default_factory=list)
    facts: list[dict[str, float]] = field(default_factory=list)
    """Loss and log-probabilities of every step, the warm-up included."""
    memory: list[dict[str, int | None]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None

    def take(self, steps: int, warm_up: bool = False) -> None:
        """Take steps and keep what they took. Raises GanpoError where the child fails.

        Free memory is given back before the warm-up and after it, and not between timed blocks: a run does not return
        its heap at every step, and getting it again would be timed.
        """
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"steps": steps, "settle": warm_up or not self.memory}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise GanpoError(self._failure()) from None
        line = process.stdout.readline()
        if not line:
            raise GanpoError(self._failure())
        answer: dict[str, Any] = json.loads(line)
        self.facts += answer["facts"]
        self.versions = answer["versions"]
        if not warm_up:
            self.seconds += answer["seconds"]
            self.memory.append(answer["memory"])

    def stop(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone already
            process.stdin.close()  # the end of its orders
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            with self.log.open("w", encoding="utf-8") as log:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment,
                )
        return self._process

    def _failure(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        said = [line for line in self.log.read_text(encoding="utf-8").splitlines() if line.strip()]
        return f"bench: {self.name} ended with status {code}: {said[-1].strip() if said else 'it said nothing'}"


def our_side(name: str, run: dict[str, Any], folder: Path, threads: int) -> Side:
    """A variant of ours, in this interpreter."""
    spec = folder / f"{name}.json"
    spec.write_text(json.dumps({"run": run, "threads": threads}), encoding="utf-8")
    command = [sys.executable, "-m", "ganpo_bench.ours", str(spec)]
    return Side(name, command, _environment(threads), folder / f"{name}.log")


def peer_side(name: str, spec: dict[str, Any], folder: Path, threads: int, python: str | None) -> Side:
    """TRL, in the interpreter given."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**spec, "threads": threads}), encoding="utf-8")
    command = [python or sys.executable, ganpo_bench.peer.__file__, str(path)]
    return Side(name, command, _environment(threads), folder / f"{name}.log")


@contextmanager
def running(sides: Sequence[Side]) -> Iterator[Sequence[Side]]:
    """The children end with the block, however it ends."""
    try:
        yield sides
    finally:
        for side in sides:
            side.stop()


def take_turns(sides: Sequence[Side], steps: int, block: int, warm_up: int, apart: bool) -> Iterator[str]:
    """Time `steps` steps of every side; yields a line as each block ends.

    Blocks alternate, in an order that is turned round each time, and only one side computes at a time. With `apart`
    the sides run one after another, each with the device to itself.
    """
    with running(sides):
        for group in [[side] for side in sides] if apart else [list(sides)]:
            for side in group:
                side.take(warm_up, warm_up=True)
                yield f"{side.name}: warm"
            for done in range(0, steps, block):
                for side in group if done // block % 2 == 0 else reversed(group):
                    side.take(min(block, steps - done))
                    yield f"{side.name}: {len(side.seconds)}/{steps} steps, last {side.seconds[-1]:.3f} s"
            if apart:
                for side in group:
                    side.stop()


def _environment(threads: int) -> dict[str, str]:
    number = str(threads)
    # The model and the rows are local, and TRL's counters and hub look-ups would only add noise.
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    quiet |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    return {**os.environ, **quiet, "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number}
