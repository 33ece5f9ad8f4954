"""What a run tells: metrics.jsonl, trackers, observers, the progress line, and the run card."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ganpo_core.adversary import STEEPEST, Critic, Health
from ganpo_core.card import CARD, make_card
from ganpo_core.config.run import flatten
from ganpo_core.errors import CheckpointError
from ganpo_core.folders import write_text
from ganpo_core.randomness import kept_randomness
from ganpo_core.redact import redact
from ganpo_core.run import Run
from ganpo_core.types import StepReport

METRICS = "metrics.jsonl"
SHOWN = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy", "adversary/penalty": "penalty"}
"""What the progress line shows of the metrics."""


class Reporter:
    """Writes on the main process; silent on the others."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.is_main = run.accelerator.is_main_process
        self.path = run.config.output_dir / METRICS
        self.health = [Health(regularizer.prefix) for regularizer in run.regularizers]
        self._told: set[str] = set()
        self.console = Console(stderr=True, quiet=not self.is_main)

    def say(self, message: str) -> None:
        """One line for the user, never wrapped."""
        if self.is_main:
            print(redact(message), file=sys.stderr, flush=True)

    def write_card(self) -> None:
        """What runs, with what: `run.yaml`, a run file itself, `plugins.json` and `card.json`."""
        if not self.is_main:
            return
        config, folder = self.run.config, self.run.config.output_dir
        _update(folder / "run.yaml", yaml.safe_dump(dict(config.resolved), sort_keys=False))
        plugins = {
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in ("ganpo", "torch", "transformers", "accelerate", "datasets")},
            "plugins": {
                name: {"distribution": provider.distribution, "version": provider.version}
                for name, provider in config.plugins.providers.items()
            },
        }
        _update(folder / "plugins.json", json.dumps(plugins, indent=1))
        _update(folder / CARD, json.dumps(make_card(self.run, folder / CARD), indent=1))

    def start(self, step: int) -> None:
        """Open the metrics after `step`: lines of later steps belong to a past that a restart undoes.

        So does an evaluation after `step` itself, which comes after the checkpoint and is repeated.
        """
        if self.is_main:
            lines = _complete_lines(self.path)
            kept = [line for line in lines if _belongs(line, step)]
            if kept != lines or not self.path.exists() or self.path.read_bytes()[-1:] not in (b"", b"\n"):
                with _writing(self.path):
                    write_text(self.path, "".join(f"{line}\n" for line in kept))
        if self.run.config.training.report_to:
            settings = {key: str(value) for key, value in flatten(self.run.config.resolved)}
            self.run.accelerator.init_trackers("ganpo", config=settings)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and the trackers."""
        if self.is_main:
            with _writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            for name in sorted(name for name, value in values.items() if not math.isfinite(value)):
                if name not in self._told:
                    self._told.add(name)
                    self.say(f"warning: metric {name} is not finite from step {step} on; the loss and the weights are")
        if self.run.config.training.report_to:
            self.run.accelerator.log(dict(values), step=step)

    def finish_step(self, step: int, values: Mapping[str, float]) -> None:
        """Tell the observers among the plugins."""
        if self.is_main:
            with kept_randomness():
                self.run.config.plugins.step_finished(StepReport(step, self.run.max_steps, dict(values)))

    def check_spectral_norms(self) -> None:
        """Warn where a critic's weight is steeper than the power iterations keep up with; waits for the device."""
        for regularizer in self.run.regularizers:
            for name, module in regularizer.modules().items():
                sigma = module.largest_singular_value() if isinstance(module, Critic) else None
                label = f"{regularizer.prefix}/{name}"
                if sigma is not None and sigma > STEEPEST and label not in self._told:
                    self._told.add(label)
                    self.say(
                        f"warning: {label} critic has a weight of spectral norm {sigma:.4g}, above 1: its power iteration "
                        "lags behind, so it is not Lipschitz as promised; lower adversary.learning_rate"
                    )

    @contextmanager
    def progress(self, start: int) -> Iterator[Any]:
        """A bar with the time left on a terminal; a line per logging interval elsewhere. Yields `advance(step, values)`."""
        if not self.console.is_terminal:
            yield self._print_line
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self.console) as bar:
            task = bar.add_task("training", total=self.run.max_steps, completed=start)

            def advance(step: int, values: Mapping[str, float]) -> None:
                bar.update(task, completed=step)
                if values:
                    bar.update(task, description=f"training  {_summary(values)}")

            yield advance

    def _print_line(self, step: int, values: Mapping[str, float]) -> None:
        if values:
            self.say(f"step {step}/{self.run.max_steps}  {_summary(values)}")


def _summary(values: Mapping[str, float]) -> str:
    return "  ".join(f"{label} {values[key]:.4g}" for key, label in SHOWN.items() if key in values)


def _belongs(line: str, step: int) -> bool:
    """Whether a line of metrics is of the run up to `step`, and not an evaluation that is about to be repeated."""
    try:
        found = json.loads(line)
        own = int(found["step"])
    except (ValueError, TypeError, KeyError):
        return False  # a disk that filled up, or lost power, can leave half a line
    return own < step or (own == step and not any(str(key).startswith("eval_") for key in found))


def _update(path: Path, text: str) -> None:
    with _writing(path):
        if not path.exists() or path.read_bytes() != text.encode("utf-8"):
            write_text(path, text)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error}; what was saved before is untouched. Continue with --resume once it can"
        ) from error


def _complete_lines(path: Path) -> list[str]:
    """Lines that end; a crash can cut the last one."""
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
