"""Self-play: the policy against its past. Without past opponents, as in the first round, the reference plays them all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from ganpo_core import NonNegativeFloat, PairLogps, PairLoss, PositiveFloat, PositiveInt, Probability, TokenLogps
from ganpo_objectives.dpo import DPO
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.responses import SPPO
from ganpo_objectives.stages import MAX_EXPONENT, clamped_share, log_ratio


def last_opponent(reference: PairLogps) -> PairLogps:
    """The iterate before; the reference in the first round."""
    return reference.opponents[-1] if reference.opponents else reference


@dataclass(frozen=True)
class SPIN(DPO):
    """Self-play fine-tuning: DPO against the iterate before, whose own responses are the rejected ones.

        margin = beta * (log pi/pi_before(chosen) - log pi/pi_before(rejected))

    Source: arXiv 2401.01335.
    TRL: none as a loss; it is `sigmoid` on data made by the model.
    When: there are good responses and no preferences.
    """

    known_as: ClassVar = {}

    def anchor(self, reference: PairLogps) -> PairLogps:
        return last_opponent(reference)


@dataclass(frozen=True)
class AlphaSPIN(Pairwise):
    """Alpha-SPIN: self-play against a geometric mixture of the iterate before and the base model.

        margin = beta * (log pi(chosen)/pi(rejected) - (1 - alpha) (the same of pi_before) - alpha (the same of pi_base))

    Source: arXiv 2404.04291.
    TRL: none.
    When: self-play drifts: alpha pulls towards the base model.
    """

    alpha: Probability = 0.1
    """Share of the base model; 0 is `spin`, 1 is DPO against the base model."""

    def anchor(self, reference: PairLogps) -> PairLogps:
        before = last_opponent(reference)

        def mixed(last: TokenLogps, base: TokenLogps) -> TokenLogps:
            return replace(base, logps=(1 - self.alpha) * last.whole + self.alpha * base.whole)

        return replace(
            reference,
            chosen=mixed(before.chosen, reference.chosen),
            rejected=mixed(before.rejected, reference.rejected),
        )


@dataclass(frozen=True)
class FictitiousSPIN(Pairwise):
    """Fictitious self-play: the opponent is the arithmetic mixture of the last iterates.

        margin = beta * (log pi/pi_mix(chosen) - log pi/pi_mix(rejected)),   log pi_mix = logsumexp(log pi_i) - log h

    Source: arXiv 2404.04291.
    TRL: none.
    When: self-play runs in circles: a mixture of opponents cannot be beaten by a trick against one.
    """

    history: PositiveInt = 2
    """h, the number of iterates in the mixture; 1 is `spin`."""

    def anchor(self, reference: PairLogps) -> PairLogps:
        opponents = reference.opponents[-self.history :] or (reference,)

        def mixture(base: TokenLogps, sides: list[TokenLogps]) -> TokenLogps:
            total = torch.stack([side.total for side in sides]).logsumexp(0) - math.log(len(sides))
            # Only the sum over the response means anything: it is spread evenly over the tokens.
            return replace(base, logps=(total / base.length.clamp(min=1))[:, None].expand(base.mask.shape))

        return PairLogps(
            mixture(reference.chosen, [pair.chosen for pair in opponents]),
            mixture(reference.rejected, [pair.rejected for pair in opponents]),
        )


@dataclass(frozen=True)
class RSPO(SPPO):
    """Regularized self-play: SPPO against the iterate before, and a divergence to the base model.

        loss = SPPO(z against pi_before) + lam (R(z_chosen) + R(z_rejected)),   z against pi_base under R
        R    = z^2 (reverse_kl), e^-z (forward_kl), e^z (chi_squared), e^-z + mix z^2 (forward_and_reverse)

    Source: arXiv 2503.00030.
    TRL: none.
    When: SPPO's rounds drift from the base model.
    """

    matters_with: ClassVar = {"mix": {"regularizer": "forward_and_reverse"}}

    known_as: ClassVar = {}

    scale: PositiveFloat = 0.5
    """Factor of the self-play loss."""
    lam: NonNegativeFloat = 0.1
    """Weight of the regularizer; 0 is `sppo` with scale 0.5."""
    regularizer: Literal["reverse_kl", "forward_kl", "chi_squared", "forward_and_reverse"] = "forward_kl"
    """R."""
    mix: NonNegativeFloat = 0.1
    """Share of the reverse KL in `forward_and_reverse`."""
    largest_exponent: Annotated[float, Gt(0), Le(MAX_EXPONENT)] = 10.0
    """Where the exponentials of R are cut off."""

    @property
    def takes_unpaired(self) -> bool:
        return False

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        game = super().loss(policy, last_opponent(reference))
        ratios = (log_ratio(policy.chosen, reference.chosen), log_ratio(policy.rejected, reference.rejected))
        penalty = torch.stack([self.divergence(z) for z in ratios]).sum(0)
        exponents = [self.direction * z.detach() for z in ratios]
        return replace(
            game,
            per_pair=game.per_pair + self.lam * penalty,
            metrics={"clamped": clamped_share(exponents, self.largest_exponent)},
        )

    @property
    def direction(self) -> float:
        """The sign of z in the exponent of R; 0 where R has none."""
        return {"reverse_kl": 0.0, "chi_squared": 1.0}.get(self.regularizer, -1.0)

    def divergence(self, z: Tensor) -> Tensor:
        """R of a log-ratio."""
        if self.regularizer == "reverse_kl":
            return z.square()
        exponential = torch.exp((self.direction * z).clamp(max=self.largest_exponent))
        return exponential + self.mix * z.square() if self.regularizer == "forward_and_reverse" else exponential
