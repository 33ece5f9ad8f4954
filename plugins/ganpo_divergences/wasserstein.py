"""The Wasserstein-1 distance, under one of three constraints on the critic.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ganpo_core import Divergence, GeneratorForm, Latents, NonNegativeFloat, PositiveFloat, Scores


@dataclass(frozen=True)
class Wasserstein(Divergence):
    """Wasserstein-1 distance: the largest difference of mean scores that a 1-Lipschitz critic can show.

        critic_loss  E s_low - E s_high
        policy_loss  -E s_policy, in every form
        estimate     E s_anchor - E s_policy

    Two rows are as far apart as the root mean square, over positions, of the distance of their latents; a critic of
    the mean latent is then held to slope 1 in that mean, whatever the length of a row. A cross term would cancel the
    policy out of the critic's loss.
    Source: arXiv 1701.07875 (clipping), 1704.00028 (gradient penalty), 1802.05957 (spectral norm).
    """

    allows_cross = False

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

    def penalty(self, critic: nn.Module, anchor: Latents, policy: Latents) -> Tensor | None:
        if self.constraint != "gradient_penalty":
            return None
        mask_NS = anchor.mask & policy.mask
        between_NSH = _between(anchor.states, policy.states, mask_NS).requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the only attention kernel that can be differentiated twice
            scores_N = critic(between_NSH, mask_NS)
        (gradient_NSH,) = torch.autograd.grad(scores_N.sum(), between_NSH, create_graph=True)
        # The dual of a root mean square over n positions; the small constant keeps the root smooth at slope 0.
        slope_N = (mask_NS.sum(1) * gradient_NSH.square().sum((1, 2)) + 1e-12).sqrt()
        valid_N = mask_NS.any(1)
        excess_N = (slope_N - 1).square().masked_fill(~valid_N, 0.0)
        return self.gradient_penalty * excess_N.sum() / valid_N.sum().clamp(min=1)

    def project(self, critic: nn.Module) -> None:
        if self.constraint != "clipping":
            return
        for name, weight in critic.named_parameters():
            if "parametrizations" not in name.split("."):
                weight.clamp_(-self.clip, self.clip)


def _between(anchor_NSH: Tensor, policy_NSH: Tensor, mask_NS: Tensor) -> Tensor:
    """A random point between the two latents of each row, 0 on padding.

    Drawn from torch's global generator, which checkpoints restore: a resumed run draws the same points.
    """
    dtype = torch.promote_types(anchor_NSH.dtype, torch.float32)
    part_N11 = torch.rand(len(anchor_NSH), 1, 1, dtype=dtype, device=anchor_NSH.device)
    between_NSH = torch.lerp(policy_NSH.to(dtype), anchor_NSH.to(dtype), part_N11)
    return between_NSH.masked_fill(~mask_NS[..., None], 0.0).detach()
