"""One pass over a batch: response log-probabilities, and the hidden states asked for."""

from ganpo_core.forward.capture import capture
from ganpo_core.forward.response import Pass, response_pass

__all__ = ["Pass", "capture", "response_pass"]
