"""What is done to hidden states before they are compared.

Shape suffixes: N rows, S positions, H latent width, L layers, D width after a projection.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def scaled(states_NSH: Tensor, norm: Literal["none", "rms", "layer", "zscore"]) -> Tensor:
    """The states, each scaled over its width; `zscore` is core's, which knows the reference's statistics."""
    if norm in ("none", "zscore"):
        return states_NSH
    # Squares of half-precision states overflow; the result goes back to their type.
    wide_NSH = states_NSH.to(torch.promote_types(states_NSH.dtype, torch.float32))
    scale = F.rms_norm if norm == "rms" else F.layer_norm
    return scale(wide_NSH, wide_NSH.shape[-1:], eps=1e-6).to(states_NSH.dtype)


def projected(states_NSH: Tensor, width: int) -> Tensor:
    """[N, S, D], along D = min(width, H) random orthonormal directions, the same for every H and D."""
    directions_HD = _directions(states_NSH.shape[-1], width)
    return states_NSH @ directions_HD.to(states_NSH)


@lru_cache(maxsize=8)  # a pure function of its arguments, and an expensive one
def _directions(latent_dim: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(latent_dim, min(width, latent_dim), generator=generator, dtype=torch.float64)
    directions: Tensor = torch.linalg.qr(drawn).Q
    return directions


class LayerMix(nn.Module):
    """A convex combination of L layers, equal at first: [N, S, L H] -> [N, S, H]."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_layers))

    def forward(self, states_NSH: Tensor) -> Tensor:
        """The softmax of `logits` weighs the layers."""
        layers = states_NSH.view(*states_NSH.shape[:-1], len(self.logits), -1)
        mixed: Tensor = (self.logits.softmax(0)[:, None] * layers).sum(-2)
        return mixed
