"""Other divergences than the reverse KL: f-DPO, and the chi-squared correction of chi-PO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganpo_core import NonNegativeFloat, PairLogps, PositiveFloat
from ganpo_objectives.pairwise import Pairwise
from ganpo_objectives.stages import MAX_EXPONENT, clamped_share, log_ratio, power


@dataclass(frozen=True)
class FDPO(Pairwise):
    """DPO under another divergence to the reference: scores are its derivative at the likelihood ratio.

        loss = softplus(-beta (phi(z_chosen) - phi(z_rejected)))
        phi  = z (reverse_kl), -e^-z (forward_kl), log sigma(z) (js), (1 - e^(-alpha z)) / alpha (alpha)

    Source: arXiv 2309.16240.
    TRL: `f_divergence_type`.
    Departs: TRL's f_alpha_divergence_coef is 1 - alpha; its forward KL is not cut off, here exponents end at 20.
    When: the policy should cover more of the reference (forward_kl), or less (reverse_kl), than DPO's does.
    """

    matters_with: ClassVar = {"alpha": {"divergence": "alpha"}}

    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    """To the reference."""
    alpha: float = 0.5
    """Of `alpha`, as in the paper: 0 is reverse_kl, 1 is forward_kl."""

    def link(self, z: Tensor) -> Tensor:
        if self.divergence == "js":
            return F.logsigmoid(z)
        return power(z, self.exponent)

    @property
    def exponent(self) -> float:
        """The alpha of the chosen divergence; of `js`, which is none of them, 0."""
        return {"forward_kl": 1.0, "alpha": self.alpha}.get(self.divergence, 0.0)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return {} if self.exponent == 0 else cut_off(-self.exponent, policy, reference)


@dataclass(frozen=True)
class ChiPO(Pairwise):
    """Chi-squared preference optimization: a chi-squared divergence beside the KL, against overoptimization.

        loss = softplus(-clip(beta (phi(z_chosen) - phi(z_rejected)), 2 R)),   phi = z + gamma e^z

    Source: arXiv 2407.13399.
    TRL: none.
    When: data cover the policy poorly, and its rewards are overoptimized.
    """

    matters_with: ClassVar = {"clip": {"beta": 10.0}}

    gamma: NonNegativeFloat = 1.0
    """Share of the chi-squared part; 0 is DPO."""
    clip: PositiveFloat | None = None
    """R, the largest reward that is believed; null does not clip."""

    def link(self, z: Tensor) -> Tensor:
        return z + self.gamma * torch.exp(z.clamp(max=MAX_EXPONENT))

    def margin(self, rho: Tensor, policy: PairLogps, reference: PairLogps | None) -> Tensor:
        margin = self.beta * rho
        return margin if self.clip is None else margin.clamp(-2 * self.clip, 2 * self.clip)

    def metrics(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return cut_off(1.0, policy, reference) if self.gamma else {}


def cut_off(factor: float, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
    """`clamped`, [B]: the share of a pair's two exponentials e^(factor z) that are cut off, and so push no more."""
    assert reference is not None
    sides = (log_ratio(policy.chosen, reference.chosen), log_ratio(policy.rejected, reference.rejected))
    return {"clamped": clamped_share([factor * z for z in sides], MAX_EXPONENT)}
