"""The f-divergences, by their variational bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ganpo_core import Divergence, GeneratorForm, Scores

Kind = Literal["kl", "reverse_kl", "pearson_chi2", "squared_hellinger", "js", "gan"]
LOG_2 = math.log(2)
LIMIT = 20.0
"""Scores enter exponentials up to here."""


@dataclass(frozen=True)
class FGAN(Divergence):
    """f-divergence of the reference from the policy: the critic's raw score v becomes an activation T(v) in f*'s domain.

        critic_loss  -(E T(v_high) - E f*(T(v_low)))
        policy_loss  minimax -E f*(T(v_policy)), non_saturating -E T(v_policy)
        estimate     E T(v_anchor) - E f*(T(v_policy)), a lower bound of E_policy f(p_reference / p_policy)

        divergence         f(u)                                T(v)                 f*(T(v))
        kl                 u log u                             v                    exp(v - 1)
        reverse_kl         -log u                              -exp(-v)             v - 1
        pearson_chi2       (u - 1)^2                           v                    v^2 / 4 + v
        squared_hellinger  (sqrt u - 1)^2                      1 - exp(-v)          exp(v) - 1
        js                 u log u - (u + 1) log((1 + u) / 2)  log 2 - softplus(-v) softplus(v) - log 2
        gan                u log u - (u + 1) log(u + 1)        -softplus(-v)        softplus(v)

    Each f*(T(v)) is simplified by hand, since f*(T) overflows long before it. Two equal groups give 0; `gan`, which is
    `js` less log 4, gives -log 4. In an exponential v counts up to 20.
    Source: arXiv 1606.00709.
    """

    divergence: Kind = "kl"
    """Which f."""

    @property
    def estimate_range(self) -> tuple[float, float]:
        return {
            "squared_hellinger": (0.0, 2.0),
            "js": (0.0, 2 * LOG_2),
            "gan": (-2 * LOG_2, 0.0),
        }.get(self.divergence, (0.0, math.inf))

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return low.average(_CONJUGATE[self.divergence](low.values)) - high.average(_ACTIVATION[self.divergence](high.values))

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        answer = _CONJUGATE if form == "minimax" else _ACTIVATION
        return -policy.average(answer[self.divergence](policy.values))

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return -self.critic_loss(anchor, policy)

    def closed_form(self, shift: float) -> float | None:
        square = shift**2
        return {
            "kl": square / 2,
            "reverse_kl": square / 2,
            "pearson_chi2": math.expm1(square),
            "squared_hellinger": -2 * math.expm1(-square / 8),
        }.get(self.divergence)


_ACTIVATION: Mapping[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda v: v,
    "reverse_kl": lambda v: -(-v).clamp(max=LIMIT).exp(),
    "pearson_chi2": lambda v: v,
    "squared_hellinger": lambda v: 1 - (-v).clamp(max=LIMIT).exp(),
    "js": lambda v: LOG_2 - F.softplus(-v),
    "gan": lambda v: -F.softplus(-v),
}
_CONJUGATE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "kl": lambda v: (v.clamp(max=LIMIT) - 1).exp(),
    "reverse_kl": lambda v: v - 1,
    "pearson_chi2": lambda v: v.square() / 4 + v,
    "squared_hellinger": lambda v: v.clamp(max=LIMIT).exp() - 1,
    "js": lambda v: F.softplus(v) - LOG_2,
    "gan": F.softplus,
}
"""f* of the activation."""
