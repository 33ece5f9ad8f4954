"""A convolutional critic.

Shape suffixes: N rows, S positions, H latent width, D the critic's width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ganpo_core import Discriminator, PositiveInt
from ganpo_discriminators.layers import linear_layer, masked_mean


@dataclass(frozen=True)
class Conv(Discriminator):
    """Convolutions over the tokens of a row: each sees its neighbours; the mean is scored.

    Linear H -> D, convolutions of width D with GELU, masked mean, Linear D -> D, GELU, Linear D -> 1. Masked positions
    are 0 before every convolution, as the space beyond a row is.
    """

    hidden_dim: PositiveInt = 256
    """D."""
    num_layers: PositiveInt = 3
    """Convolutions."""
    kernel_size: PositiveInt = 5
    """Tokens that a convolution sees; odd."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {self.kernel_size} is even, so it has no middle; give an odd number")

    def build(self, latent_dim: int) -> nn.Module:
        return ConvCritic(latent_dim, self)


class ConvCritic(nn.Module):
    """See Conv."""

    def __init__(self, latent_dim: int, options: Conv) -> None:
        super().__init__()
        width, size = options.hidden_dim, options.kernel_size
        self.project_in = linear_layer(latent_dim, width)
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, size, padding=size // 2) for _ in range(options.num_layers)
        )
        self.activation = nn.GELU()
        self.head = nn.Sequential(linear_layer(width, width), nn.GELU(), linear_layer(width, 1))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N], 0 for rows without a valid position."""
        return self.score(self.features(states, mask), mask)

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N, S, D], after the last convolution; 0 at masked positions."""
        masked_NS1 = ~mask[..., None]
        hidden_NSD: Tensor = self.project_in(states.masked_fill(masked_NS1, 0.0)).masked_fill(masked_NS1, 0.0)
        for layer in self.layers:
            hidden_NSD = self.activation(layer(hidden_NSD.transpose(1, 2)).transpose(1, 2)).masked_fill(masked_NS1, 0.0)
        return hidden_NSD

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N], from what `features` returned."""
        scores: Tensor = self.head(masked_mean(features, mask))
        return scores[:, 0].masked_fill(~mask.any(1), 0.0)
