"""A judge asked: its scores as finite floats, one for each response, whatever it returned; else an error that names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ganpo_core import Judge, PluginError, Prompt
from ganpo_core.registry import naming, provider_of

Ask = Callable[[Sequence[Prompt], Sequence[str]], list[float]]


def asked(judge: Judge) -> Ask:
    """The judge, built. Whole numbers, numpy's and tensors of one value become floats.

    Its function raises PluginError where the judge raises, returns another count than there are responses, or a score
    that is no finite number.
    """
    name, provider = type(judge).__name__, provider_of(judge)
    where = f"plugin '{provider}': {name}" if provider else name

    def call(what: str, function: Callable[..., Any], *arguments: object) -> Any:
        if provider is None:
            return function(*arguments)
        with naming(provider, f"{name}.{what}"):
            return function(*arguments)

    score = call("build", judge.build)

    def ask(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        found = call("build: its function", score, prompts, responses)
        try:
            values = list(found)
        except TypeError as error:
            raise PluginError(f"{where} returned {found!r}, not a list of scores") from error
        if len(values) != len(responses):
            raise PluginError(f"{where} returned {len(values)} scores for {len(responses)} responses; return one each, in order")
        return [_number(value, where, row, response) for row, (value, response) in enumerate(zip(values, responses, strict=True))]

    return ask


def _number(value: Any, where: str, row: int, response: str) -> float:
    try:
        number = float("nan") if isinstance(value, str | bytes) else float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise PluginError(f"{where} returned {value!r}, not a finite number, for response {row}: {response[:60]!r}")
    return number
