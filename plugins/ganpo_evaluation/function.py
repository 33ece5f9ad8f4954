"""A Python function of the user's as a judge."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ganpo_core import ConfigError, Judge, PluginError, Prompt, Scorer


@dataclass(frozen=True)
class Function(Judge):
    """A function (prompt, response) -> number from a Python file; a prompt is text, or a list of chat messages."""

    path: str
    """The file, such as ./my_judge.py. It is imported, which runs its code."""
    name: str = "score"
    """Of the function in it."""

    def build(self) -> Scorer:
        """Imports the file; what it raises is told with its name."""
        function = self._load()

        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            scores = []
            for prompt, response in zip(prompts, responses, strict=True):
                try:
                    value = function(prompt, response)
                except Exception as error:
                    where = f"{self.path}:{self.name}"
                    raise PluginError(f"judge function: {where} raised {error!r} for {response[:60]!r}") from error
                if not isinstance(value, int | float):
                    raise PluginError(f"judge function: {self.path}:{self.name} returned {value!r}, not a number")
                scores.append(float(value))
            return scores

        return score

    def _load(self) -> Any:
        file = Path(self.path).resolve()
        if not file.is_file():
            raise ConfigError(f"judge.path: {file} is not a file")
        spec = importlib.util.spec_from_file_location(f"ganpo_judge_{sha256(str(file).encode()).hexdigest()[:12]}", file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"judge.path: '{self.path}' cannot be imported as Python")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"judge function: {self.path} does not import: {type(error).__name__}: {error}") from error
        function = getattr(module, self.name, None)
        if not callable(function):
            raise ConfigError(f"judge.name: {self.path} has no function '{self.name}'")
        return function
