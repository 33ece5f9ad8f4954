"""The six stages that most preference losses are made of, each written once.

    token weights -> link -> normaliser -> margin -> convex cost -> sample weight and auxiliaries

`z` is a log-ratio log pi/pi_ref of a response in nats, `margin` the difference of two rewards. Shapes: B pairs,
T response tokens. Everything is finite, with finite gradients, at |z| = 1e4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor

from ganpo_core import TokenLogps

MAX_EXPONENT = 20.0
"""Where exponential links are cut off: e^20 is beyond any log-ratio that means something."""
MAX_COST_EXPONENT = 30.0
"""Where exponential costs are cut off; e^30 squared is still finite in float32."""

Smoothing = Annotated[float, Ge(0), Lt(0.5)]
"""The probability that a label is wrong; at a half labels would mean nothing."""
Averaging = Literal["sum", "seq_mean", "token_mean"]
"""Of a likelihood term: over tokens of the response, per token of the response, or per token of the whole step."""


# -- token weights ---------------------------------------------------------------------------------------------------


def reweighted(tokens: TokenLogps, weights_BT: Tensor) -> TokenLogps:
    """The same response with each token's log-probability multiplied."""
    return replace(tokens, logps=tokens.whole * weights_BT)


# -- links -----------------------------------------------------------------------------------------------------------


def log_ratio(policy: TokenLogps, reference: TokenLogps | None) -> Tensor:
    """[B], z = log pi/pi_ref of each response; log pi where there is no reference."""
    return policy.total if reference is None else policy.total - reference.total


def power(z: Tensor, alpha: float) -> Tensor:
    """(1 - e^(-alpha z)) / alpha, which is z for alpha = 0."""
    return z if alpha == 0 else -torch.expm1((-alpha * z).clamp(max=MAX_EXPONENT)) / alpha


def clamped_share(exponents: Sequence[Tensor], limit: float) -> Tensor:
    """[B], how many of a pair's exponents are cut off at the limit: those give no gradient any more."""
    return torch.stack([(exponent > limit).double() for exponent in exponents]).mean(0)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0."""
    x = x.clamp(max=-1e-6)  # a probability of exactly 1 has infinite odds
    near = x > -math.log(2)
    # Each branch only sees what it is accurate for: the other's gradient would be nan.
    return torch.where(
        near, torch.log(-torch.expm1(x.clamp(min=-math.log(2)))), torch.log1p(-torch.exp(x.clamp(max=-math.log(2))))
    )


# -- normalisers -----------------------------------------------------------------------------------------------------


def per_token(score: Tensor, tokens: TokenLogps) -> Tensor:
    """A score of whole responses, divided by their numbers of tokens."""
    return score / tokens.length.clamp(min=1)


# -- costs of a margin -----------------------------------------------------------------------------------------------

Surrogate = Literal["logistic", "exponential", "hinge", "squared", "truncated_quadratic"]


def cost(surrogate: Surrogate, margin: Tensor) -> Tensor:
    """A convex function that falls at 0: -log sigma(m), e^-m, max(0, 1 - m), (1 - m)^2 or max(0, 1 - m)^2."""
    if surrogate == "logistic":
        return F.softplus(-margin)
    if surrogate == "exponential":
        return torch.exp((-margin).clamp(max=MAX_COST_EXPONENT))
    short = 1 - margin
    if surrogate == "squared":
        return short.square()
    return F.relu(short) if surrogate == "hinge" else F.relu(short).square()


def smoothed(margin: Tensor, label_smoothing: float) -> Tensor:
    """The logistic cost in expectation over labels that are wrong with probability e."""
    return (1 - label_smoothing) * F.softplus(-margin) + label_smoothing * F.softplus(margin)


def unbiased(margin: Tensor, label_smoothing: float) -> Tensor:
    """The cost whose expectation over wrong labels is the logistic cost of the right ones."""
    e = label_smoothing
    return ((1 - e) * F.softplus(-margin) - e * F.softplus(margin)) / (1 - 2 * e)


# -- auxiliaries -----------------------------------------------------------------------------------------------------


def negative_log_likelihood(chosen: TokenLogps, averaging: Averaging, step_length: Tensor | None = None) -> Tensor:
    """[B], what imitating the chosen responses costs.

    `token_mean` gives every pair the same value, so that the mean over the pairs of a step is the mean over its
    chosen tokens; `step_length` is the mean length of the step's chosen responses, this batch's by default.
    """
    if averaging == "sum":
        return -chosen.total
    if averaging == "seq_mean":
        return -chosen.mean
    length = chosen.length.mean() if step_length is None else step_length.to(chosen.total)
    return (-chosen.total.mean() / length.clamp(min=1)).expand(len(chosen.total))
