"""The smallest critic: a direction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ganpo_core import Discriminator
from ganpo_discriminators.layers import PooledCritic, linear_layer


@dataclass(frozen=True)
class Linear(Discriminator):
    """A linear score of the mean latent: masked mean, then Linear H -> 1."""

    spectral_norm: bool = False
    """Divide the weight by its norm: the critic is then 1-Lipschitz in the mean latent."""

    @property
    def lipschitz(self) -> bool:
        return self.spectral_norm

    def build(self, latent_dim: int) -> nn.Module:
        return PooledCritic(nn.Identity(), linear_layer(latent_dim, 1, self.spectral_norm))
