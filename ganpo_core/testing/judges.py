"""The contract of a judge, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ganpo_core.components import Judge, Prompt, Scorer
from ganpo_core.testing.expect import expect, expect_component

TOLERANCE = 1e-3
"""Of a score beside others, relative to 1 plus its size: models in float32 sum in another order in another batch."""


def check_judge(judge: Judge, samples: Sequence[tuple[Prompt, str]] | None = None) -> None:
    """Check `build` and the scores of `samples` (by default the judge's own): finite, repeatable, each by itself."""
    expect_component(judge, Judge)
    name = type(judge).__name__
    samples = judge.samples() if samples is None else samples
    expect(len(samples) >= 2, f"{name}.samples", "two pairs of a prompt and a response at least", len(samples))
    score = judge.build()
    expect(callable(score), f"{name}.build", "a function (prompts, responses) -> scores", type(score).__name__)
    together = _scored(score, samples, name)
    _expect_near(_scored(score, samples, name), together, name, "the same scores a second time")
    backwards = _scored(score, samples[::-1], name)[::-1]
    _expect_near(backwards, together, name, "scores that do not depend on the order of the pairs")
    apart = [value for sample in samples for value in _scored(score, [sample], name)]
    _expect_near(apart, together, name, "scores that do not depend on the other pairs")
    expect(list(score([], [])) == [], f"{name}.build", "no scores for no pairs")


def _scored(score: Scorer, samples: Sequence[tuple[Prompt, str]], name: str) -> list[float]:
    found = score([prompt for prompt, _ in samples], [response for _, response in samples])
    where = f"{name}.build"
    expect(isinstance(found, Sequence), where, "scores as a list", type(found).__name__)
    expect(len(found) == len(samples), where, f"a score for each of {len(samples)} pairs", len(found))
    for value in found:
        expect(isinstance(value, int | float) and math.isfinite(value), where, "finite numbers as scores", repr(value))
    return [float(value) for value in found]


def _expect_near(found: Sequence[float], wanted: Sequence[float], name: str, expected: str) -> None:
    near = all(abs(a - b) <= TOLERANCE * (1 + abs(b)) for a, b in zip(found, wanted, strict=True))
    expect(near, f"{name}.build", expected, f"{list(found)} beside {list(wanted)}")
