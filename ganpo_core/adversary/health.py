"""Plain warnings about a critic that saturates, collapses or is overtaken, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ganpo_core.adversary.regularizer import SIDES

INTERVALS = 3
"""Logging intervals in a row before a sign counts: one bad batch is not a trend."""
SATURATED_ACCURACY = 0.98
SATURATED_GAP = 5.0
"""Logits between anchor and policy beyond which the critic's gradient has nothing left to say."""
OVERSHOOT = 3.0
"""Logits by which the policy may score above its own anchor."""
STEEPEST = 1.0 + 1e-3
"""Largest singular value of a weight under a spectral norm before its power iteration counts as lagging."""
COLLAPSED = 1e-6
"""Logits between groups below which a critic tells nothing apart."""

ADVICE = {
    "saturated": "it separates policy and reference with ease, and its push no longer depends on the distance: lower "
    "adversary.learning_rate or adversary.weight, or choose a form that vanishes at the reference (feature_matching)",
    "overtaken": "the policy scores far above the reference and is pushed further: lower adversary.weight, or choose "
    "form: anchor_score, paired_score or feature_matching",
    "collapsed": "it gives every group the same score, so it teaches nothing: raise adversary.learning_rate, or look "
    "at the latents with another layer or norm",
}


class Health:
    """Watches one regularizer's logged metrics; warns once per trend."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._runs: dict[tuple[str, str], int] = {}

    def warnings(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """What to tell the user after one logging interval."""
        for side in SIDES:
            name = f"{self.prefix}/{side}"
            if f"{name}/gap" not in metrics:
                continue
            gap, accuracy = metrics[f"{name}/gap"], metrics[f"{name}/accuracy"]
            cross = metrics.get(f"{name}/score_cross", metrics[f"{name}/score_anchor"])
            spread = max(abs(gap), abs(metrics[f"{name}/score_anchor"] - cross))
            signs = {
                "saturated": accuracy > SATURATED_ACCURACY and gap > SATURATED_GAP,
                "overtaken": -gap > OVERSHOOT,
                "collapsed": spread < COLLAPSED,
            }
            for sign, seen in signs.items():
                count = self._runs.get((side, sign), 0) + 1 if seen else 0
                self._runs[side, sign] = count
                if count == INTERVALS:
                    yield f"warning: {name} critic is {sign} (gap {gap:.3g} logits): {ADVICE[sign]}"
