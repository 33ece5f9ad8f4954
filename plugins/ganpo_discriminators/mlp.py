"""A shallow critic of the mean latent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import Discriminator, PositiveInt
from ganpo_discriminators.layers import PooledCritic, linear_layer


@dataclass(frozen=True)
class MLP(Discriminator):
    """A multilayer perceptron on the mean latent: masked mean, Linear H -> hidden, activation, …, Linear hidden -> 1.

    Source: the "shallow MLP" of arXiv 2601.22083, table 3, which leaves the definition to the reader.
    """

    hidden_dim: PositiveInt = 512
    """Width of every hidden layer."""
    depth: PositiveInt = 1
    """Number of hidden layers."""
    activation: Literal["gelu", "relu", "leaky_relu"] = "gelu"
    """With `spectral_norm`, GELU is divided by 1.13, since its slope reaches 1.129."""
    spectral_norm: bool = False
    """Divide every weight by its largest singular value: the critic is then 1-Lipschitz in the mean latent."""

    @property
    def lipschitz(self) -> bool:
        return self.spectral_norm

    def build(self, latent_dim: int) -> nn.Module:
        return PooledCritic(self.body(latent_dim), linear_layer(self.hidden_dim, 1, self.spectral_norm))

    def body(self, latent_dim: int) -> nn.Module:
        """The hidden layers, [..., H] -> [..., hidden_dim]."""
        return nn.Sequential(*self._hidden_layers(latent_dim))

    def _hidden_layers(self, latent_dim: int) -> Iterator[nn.Module]:
        for index in range(self.depth):
            yield linear_layer(self.hidden_dim if index else latent_dim, self.hidden_dim, self.spectral_norm)
            yield self._activation()

    def _activation(self) -> nn.Module:
        if self.activation == "relu":
            return nn.ReLU()
        if self.activation == "leaky_relu":
            return nn.LeakyReLU(0.2)
        return LipschitzGELU() if self.spectral_norm else nn.GELU()


class LipschitzGELU(nn.Module):
    """GELU, scaled so that its slope stays within 1."""

    def forward(self, values: Tensor) -> Tensor:
        return F.gelu(values) / 1.13
