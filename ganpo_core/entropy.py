"""How random next-token distributions are, and the temperature at which one model is as random as another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

COLDEST, HOTTEST = 0.2, 5.0
"""Between which a temperature is looked for, times the one that it should be near."""


def mean_entropy(logits: Tensor, temperature: float = 1.0) -> float:
    """Nats per token of the distributions softmax(logits / temperature), [M, V] or more."""
    logps = (logits.double() / temperature).log_softmax(-1)
    return float(-(logps.exp() * logps).sum(-1).mean())


def matching_temperature(logits: Tensor, entropy: float) -> float:
    """The temperature at which distributions have a mean entropy; see `temperature_of`."""
    return temperature_of(lambda temperature: mean_entropy(logits, temperature), entropy)


def temperature_of(
    entropy_at: Callable[[float], float], entropy: float, near: float = 1.0, tolerance: float = 1e-8
) -> float:
    """The temperature in [0.2, 5] times `near` at which a mean entropy is reached, or the end of that range beyond which it lies.

    Entropy grows with temperature, which is found to `tolerance` of itself. A root of the interpolating kind: about ten calls
    of `entropy_at`, each of which may be a pass over data.
    """
    from scipy.optimize import brentq

    coldest, hottest = COLDEST * near, HOTTEST * near
    if entropy_at(coldest) >= entropy:
        return coldest
    if entropy_at(hottest) <= entropy:
        return hottest
    low, high = math.log(coldest), math.log(hottest)
    return math.exp(brentq(lambda place: entropy_at(math.exp(place)) - entropy, low, high, xtol=tolerance))
