"""What every critic is made of.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def linear_layer(num_inputs: int, num_outputs: int, spectral_norm: bool = False) -> nn.Linear:
    """A linear layer with Xavier-uniform weights and zero biases, divided by its spectral norm if asked.

    The norm is torch's running estimate: 15 power iterations now, and then one whenever the weight is read while the
    parametrization is in training mode. It is left in evaluation mode, so that a forward pass changes nothing; whoever
    trains the critic switches it on once per optimizer step.
    """
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    if spectral_norm:
        parametrizations.spectral_norm(layer)
        cast(nn.Module, layer.parametrizations).eval()
    return layer


def masked_mean(states_NSH: Tensor, mask_NS: Tensor) -> Tensor:
    """[N, H], the mean over the positions of `mask_NS`; 0 for a row without one, whatever the others hold."""
    wide = torch.promote_types(states_NSH.dtype, torch.float32)
    sum_NH = states_NSH.masked_fill(~mask_NS[..., None], 0.0).sum(1, dtype=wide)
    return (sum_NH / mask_NS.sum(1, keepdim=True).clamp(min=1)).to(states_NSH.dtype)


class PooledCritic(nn.Module):
    """A critic of the mean latent: masked mean, `body`, then the linear `head`."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N], 0 for rows without a valid position."""
        return self.score(self.features(states, mask), mask)

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N, 1, F], what the head reads: one position a row, since the row was pooled before."""
        features: Tensor = self.body(masked_mean(states, mask))
        return features[:, None]

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N], from what `features` returned."""
        scores: Tensor = self.head(features[:, 0])
        return scores[:, 0].masked_fill(~mask.any(1), 0.0)
