"""One pass over a batch: response log-probabilities, and the hidden states asked for.

Reading order: response (one pass) → capture (hidden states) → attention and blocks (packed rows) → head and statistics
(log-probabilities) → plan (what the models of a run allow).
"""

from ganpo_core.forward.capture import capture
from ganpo_core.forward.plan import PassPlan, packing_check, plan_passes
from ganpo_core.forward.response import Pass, Wanted, response_pass
from ganpo_core.forward.statistics import TOKEN_STATISTICS

__all__ = [
    "TOKEN_STATISTICS",
    "Pass",
    "PassPlan",
    "Wanted",
    "capture",
    "packing_check",
    "plan_passes",
    "response_pass",
]
