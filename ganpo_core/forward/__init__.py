"""One pass over a batch: response log-probabilities, and the hidden states asked for.

Reading order: response (one pass) → capture (hidden states) → attention, softcap and blocks (packed rows) → head and
statistics (log-probabilities) → check (two layouts compared) → plan (what the models of a run allow).
"""

from ganpo_core.forward.capture import capture
from ganpo_core.forward.check import Gap, packing_check
from ganpo_core.forward.plan import PassPlan, layout_tolerance, plan_passes
from ganpo_core.forward.response import Pass, Wanted, known_pass, response_pass
from ganpo_core.forward.statistics import TOKEN_STATISTICS

__all__ = [
    "TOKEN_STATISTICS",
    "Gap",
    "Pass",
    "PassPlan",
    "Wanted",
    "capture",
    "known_pass",
    "layout_tolerance",
    "packing_check",
    "plan_passes",
    "response_pass",
]
