"""One pass over a batch: response log-probabilities, and the hidden states asked for."""

from ganpo_core.forward.capture import capture
from ganpo_core.forward.response import Pass, Wanted, response_pass
from ganpo_core.forward.statistics import TOKEN_STATISTICS

__all__ = ["TOKEN_STATISTICS", "Pass", "Wanted", "capture", "response_pass"]
