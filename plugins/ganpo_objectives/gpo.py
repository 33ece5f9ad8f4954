"""Convex costs of the margin: the GPO family, and IPO beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from annotated_types import Gt, Lt
from torch import Tensor

from ganpo_core import PairLogps, PositiveFloat, TokenLogps
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import MAX_COST_EXPONENT, Surrogate, clamped_share, cost, log_ratio, per_token


@dataclass(frozen=True)
class GPO(Pairwise):
    """Generalized preference optimization: any convex cost of the margin.

        loss = f(margin),   f = log(1 + e^-m), e^-m, max(0, 1 - m), (1 - m)^2 or max(0, 1 - m)^2

    Source: arXiv 2402.05749.
    TRL: `sigmoid` is logistic, `hinge` is hinge; the others are missing.
    When: comparing shapes of loss under one regularization.
    """

    surrogate: Surrogate = "logistic"
    """f. The exponential is cut off at a margin of -30."""

    def cost(self, margin: Tensor) -> Tensor:
        return cost(self.surrogate, margin)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        if self.surrogate != "exponential" or reference is None:
            return {}
        rho = log_ratio(policy.chosen, reference.chosen) - log_ratio(policy.rejected, reference.rejected)
        return {"clamped": clamped_share([-self.beta * rho], MAX_COST_EXPONENT)}


@dataclass(frozen=True)
class Hinge(Pairwise):
    """A hinge on the difference of implicit rewards: pairs beyond the margin are left alone.

        loss = max(0, 1 - beta * (log pi/pi_ref(chosen) - log pi/pi_ref(rejected)))

    Source: arXiv 2309.06657 (RSO), after SLiC.
    TRL: `loss_type="hinge"`.
    When: pairs once ranked right should stop pulling.
    """

    def cost(self, margin: Tensor) -> Tensor:
        return cost("hinge", margin)


@dataclass(frozen=True)
class IPO(Pairwise):
    """Identity preference optimization: the difference of log-ratios is drawn to a finite target.

        loss = (s - 1 / (2 beta))^2,   s = z_chosen / n_chosen - z_rejected / n_rejected, or z_chosen - z_rejected

    Source: arXiv 2310.12036, where beta is tau; the mean per token is the authors' correction.
    TRL: `loss_type="ipo"` is `reduction: mean`.
    Departs: TRL divides by lengths, as the authors' code does and as is the default here; the paper's sum is an option.
    When: preferences are nearly deterministic, and DPO would push rewards without bound.
    """

    reduction: Literal["mean", "sum"] = "mean"
    """Over the tokens of a response: the authors' and TRL's mean, or the paper's sum."""

    def normalize(self, score: Tensor, tokens: TokenLogps) -> Tensor:
        return per_token(score, tokens) if self.reduction == "mean" else score

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        return rho

    def cost(self, margin: Tensor) -> Tensor:
        return (margin - 1 / (2 * self.beta)).square()


@dataclass(frozen=True)
class EXO(Pairwise):
    """Efficient exact optimization: a reverse KL to the smoothed preference.

        loss = q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e),   q = sigma(margin)

    Source: arXiv 2402.00856.
    TRL: `loss_type="exo_pair"`; e is its label_smoothing.
    When: the optimum of the regularized objective is to be approached mode-seeking, as with reinforcement learning.
    """

    known_as: ClassVar = {"exo_pair": "TRL"}

    label_smoothing: Annotated[float, Gt(0), Lt(0.5)] = 1e-3
    """e, below 0.5 and above 0, since the loss holds its logarithm: the preference that is matched is 1 - e."""

    def cost(self, margin: Tensor) -> Tensor:
        log_q, log_p = F.logsigmoid(margin), F.logsigmoid(-margin)
        right, wrong = math.log1p(-self.label_smoothing), math.log(self.label_smoothing)
        return log_q.exp() * (log_q - right) + log_p.exp() * (log_p - wrong)


@dataclass(frozen=True)
class DiscoPOP(Pairwise):
    """The loss that a language model discovered: logistic and exponential, mixed by the margin itself.

        loss = (1 - w) softplus(-m) + w e^-m,   w = sigma(m / tau)

    It does not fall everywhere: at tau = 0.05 the margin has a local minimum at -0.12 and a local maximum at 0.07.

    Source: arXiv 2406.08414.
    TRL: `loss_type="discopop"`, tau is discopop_tau.
    When: reproducing the discovery; its gradient at the start points the wrong way.
    """

    beta: PositiveFloat = 0.05
    """Reward per nat of log-ratio."""
    tau: PositiveFloat = 0.05
    """Temperature of the mixture."""

    def cost(self, margin: Tensor) -> Tensor:
        share = (margin / self.tau).sigmoid()
        return (1 - share) * cost("logistic", margin) + share * cost("exponential", margin)
