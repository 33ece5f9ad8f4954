"""The Wasserstein-1 distance, under one of three constraints on the critic.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganpo_core import Divergence, GeneratorForm, Latents, NonNegativeFloat, PositiveFloat, Scores
from ganpo_divergences.slopes import mean_over_rows, squared_slopes


@dataclass(frozen=True)
class Wasserstein(Divergence):
    """Wasserstein-1 distance: the largest difference of mean scores that a 1-Lipschitz critic can show.

        critic_loss  E s_low - E s_high
        policy_loss  -E s_policy, in every form
        estimate     E s_anchor - E s_policy

    Rows are as far apart as the root mean square, over positions, of the distance of their latents. A cross term would
    cancel the policy out of the critic's loss.
    Source: arXiv 1701.07875 (clipping), 1704.00028 (gradient penalty), 1802.05957 (spectral norm).
    """

    allows_cross = False
    matters_with: ClassVar = {
        "clip": {"constraint": "clipping"},
        "gradient_penalty": {"constraint": "gradient_penalty"},
    }

    constraint: Literal["gradient_penalty", "clipping", "spectral_norm"] = "gradient_penalty"
    """What keeps the critic's slope bounded. `spectral_norm` needs a discriminator that is 1-Lipschitz by construction.
    `clipping` bounds it by an unknown constant, so that only the trend of the estimate means something."""
    gradient_penalty: NonNegativeFloat = 10.0
    """Weight of (slope - 1)^2 between the two groups; unused under the other constraints."""
    clip: PositiveFloat = 0.01
    """Largest size of a critic's weight under `clipping`; weights that carry a spectral norm are bounded already."""

    @property
    def needs_lipschitz(self) -> bool:
        return self.constraint == "spectral_norm"

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return low.average(low.values) - high.average(high.values)

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        return -policy.average(policy.values)

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return anchor.average(anchor.values) - policy.average(policy.values)

    def closed_form(self, shift: float) -> float | None:
        return abs(shift)

    def penalty(self, critic: nn.Module, anchor: Latents, policy: Latents) -> Tensor | None:
        if self.constraint != "gradient_penalty":
            return None
        between = _between(anchor, policy)
        # The small constant keeps the root smooth at slope 0.
        slope_N = (squared_slopes(critic, between) + 1e-12).sqrt()
        return self.gradient_penalty * mean_over_rows((slope_N - 1).square(), between.mask)

    def project(self, critic: nn.Module) -> None:
        if self.constraint != "clipping":
            return
        for name, weight in critic.named_parameters():
            if "parametrizations" not in name.split("."):
                weight.clamp_(-self.clip, self.clip)


def _between(anchor: Latents, policy: Latents) -> Latents:
    """A random point between the two latents of each row, 0 on padding.

    Drawn from torch's global generator, which checkpoints restore: a resumed run draws the same points.
    """
    mask_NS = anchor.mask & policy.mask
    dtype = torch.promote_types(anchor.states.dtype, torch.float32)
    part_N11 = torch.rand(len(mask_NS), 1, 1, dtype=dtype, device=mask_NS.device)
    between_NSH = torch.lerp(policy.states.to(dtype), anchor.states.to(dtype), part_N11)
    return Latents(between_NSH.masked_fill(~mask_NS[..., None], 0.0), mask_NS)
