"""A run's folder as it lies on disk: what was asked for, what it was made of, and what was logged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ganpo_core import DataError
from ganpo_core.config.run import flatten

Line = Mapping[str, float]
"""One line of metrics.jsonl."""


@dataclass(frozen=True)
class Series:
    """One metric over the steps at which it was logged."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)

    @property
    def last(self) -> float:
        """At the last step."""
        return self.values[-1]

    @property
    def early(self) -> float:
        """The mean of the first tenth, at least one value."""
        return _mean(self.values[: self._tenth])

    @property
    def late(self) -> float:
        """The mean of the last tenth, at least one value: a single interval of pairs is noisy."""
        return _mean(self.values[-self._tenth :])

    @property
    def _tenth(self) -> int:
        return max(1, round(len(self.values) / 10))


@dataclass(frozen=True)
class RunFolder:
    """One run."""

    name: str
    """Short, and unlike that of every other run read with it."""
    folder: Path
    settings: Mapping[str, object]
    """run.yaml by dotted path."""
    versions: Mapping[str, str]
    """python, packages and plugins, from plugins.json."""
    card: Mapping[str, Any]
    """card.json; empty in a folder of an older version."""
    training: tuple[Line, ...]
    """One line a logging interval."""
    held_out: tuple[Line, ...]
    """One line an evaluation, keys prefixed `eval_`."""

    def series(self, key: str) -> Series:
        """A metric of training or, prefixed `eval_`, of held-out pairs; empty where it was not logged."""
        lines = self.held_out if key.startswith("eval_") else self.training
        found = [(int(line["step"]), float(line[key])) for line in lines if key in line]
        return Series(tuple(step for step, _ in found), tuple(value for _, value in found))

    @property
    def keys(self) -> tuple[str, ...]:
        """Every metric logged, in order of appearance."""
        return tuple(dict.fromkeys(key for line in (*self.training, *self.held_out) for key in line if key != "step"))

    @property
    def adversaries(self) -> tuple[str, ...]:
        """The prefixes under which adversaries log."""
        return tuple(key.removesuffix("/penalty") for key in self.keys if key.endswith("/penalty"))

    @property
    def divergences(self) -> tuple[str, ...]:
        """What is beside the objective: the divergence of each adversary."""
        return tuple(str(value) for key, value in self.settings.items() if key.endswith("divergence.use"))

    def divergence_of(self, adversary: str) -> str:
        """That of the adversary that logs under a prefix; empty where the run file does not say."""
        name = adversary.partition("/")[2]
        place = next((key.removesuffix("name") for key, value in self.settings.items() if name and value == name
                      and key.startswith("adversaries.") and key.endswith(".name")), "")  # fmt: skip
        return str(self.settings.get(f"{place}divergence.use", ""))

    @property
    def last_step(self) -> int:
        """Of the last line."""
        return max((int(line["step"]) for line in (*self.training, *self.held_out)), default=0)


def read_runs(folders: Sequence[Path]) -> tuple[RunFolder, ...]:
    """The runs, each with a name of its own. Raises DataError for a folder that holds none."""
    paths = [folder.resolve() for folder in folders]
    if repeated := next((path for path in paths if paths.count(path) > 1), None):
        raise DataError(f"{repeated} is given twice")
    depth = 1
    while len({_label(path, depth) for path in paths}) < len(paths):
        depth += 1
    return tuple(_read(path, _label(path, depth)) for path in paths)


def _label(path: Path, depth: int) -> str:
    return "/".join(path.parts[-depth:])


def _read(folder: Path, name: str) -> RunFolder:
    run_file, metrics = folder / "run.yaml", folder / "metrics.jsonl"
    if not run_file.is_file():
        raise DataError(f"{folder} is not a run: it has no run.yaml; give the output_dir of `ganpo train`")
    try:
        settings = yaml.safe_load(run_file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{run_file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{run_file}: a mapping was expected, found {'nothing' if settings is None else repr(settings)[:60]}")
    plugins = _json(folder / "plugins.json")
    versions = {"python": plugins.get("python"), **plugins.get("packages", {})}
    versions |= {f"plugin {name}": found.get("version") for name, found in plugins.get("plugins", {}).items()}
    lines = _lines(metrics)
    return RunFolder(
        name=name,
        folder=folder,
        settings=dict(flatten(settings)),
        versions={name: str(version) for name, version in versions.items() if version is not None},
        card=_json(folder / "card.json"),
        training=tuple(line for line in lines if not _is_held_out(line)),
        held_out=tuple(line for line in lines if _is_held_out(line)),
    )


def _is_held_out(line: Line) -> bool:
    return any(key.startswith("eval_") for key in line)


def _lines(path: Path) -> list[Line]:
    """The lines that end: a run that is still going, or that was killed, can leave a part of one."""
    if not path.is_file():
        return []
    complete = path.read_bytes().split(b"\n")[:-1]
    found: list[Line] = []
    for number, line in enumerate(complete, start=1):
        try:
            values = json.loads(line)
        except ValueError as error:  # UnicodeDecodeError is one
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(values, dict) or "step" not in values:
            raise DataError(f"{path}, line {number}: metrics with their step were expected, found {line[:60]!r}")
        found.append({key: value for key, value in values.items() if isinstance(value, int | float)})
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: a mapping was expected, found a {type(found).__name__}")
    return found


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
