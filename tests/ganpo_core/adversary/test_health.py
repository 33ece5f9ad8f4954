"""Each warning comes after three intervals of its sign, once, and again only after it had gone."""

from __future__ import annotations

import pytest

from ganpo_core.adversary.health import Health


def interval(gap: float, accuracy: float = 0.5, cross: float = 0.3) -> dict[str, float]:
    return {
        "adversary/chosen/gap": gap,
        "adversary/chosen/accuracy": accuracy,
        "adversary/chosen/score_anchor": 1.0,
        "adversary/chosen/score_cross": cross,
    }


@pytest.mark.parametrize(
    ("metrics", "word"),
    [(interval(6.0, 0.99), "saturated"), (interval(-3.5), "overtaken"), (interval(0.0, cross=1.0), "collapsed")],
)
def test_a_trend_is_named_once(metrics: dict[str, float], word: str) -> None:
    health = Health("adversary")
    said = [list(health.warnings(metrics)) for _ in range(5)]
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0]
    assert said[2][0].startswith(f"warning: adversary/chosen critic is {word}")
    assert not list(health.warnings(interval(0.1)))
    assert [len(list(health.warnings(metrics))) for _ in range(3)] == [0, 0, 1]


def test_a_critic_at_work_is_left_alone() -> None:
    health = Health("adversary")
    assert not [line for _ in range(9) for line in health.warnings(interval(0.4, 0.7))]
