"""A critic that chooses which tokens to look at.

Shape suffixes: N rows, S positions, H latent width, D the critic's width, Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganpo_core import Discriminator, PositiveInt
from ganpo_discriminators.layers import linear_layer


@dataclass(frozen=True)
class AttentionPool(Discriminator):
    """Learned queries attend over the tokens of a row; what they find is scored.

    Linear H -> D, softmax attention of each query over valid positions, the results side by side, Linear Q D -> D,
    GELU, Linear D -> 1. Attention is not Lipschitz, whatever `spectral_norm` says.
    """

    hidden_dim: PositiveInt = 512
    """D."""
    num_queries: PositiveInt = 1
    """Q."""
    spectral_norm: bool = True
    """Divide the weights before and after the attention by their largest singular value."""

    def build(self, latent_dim: int) -> nn.Module:
        return AttentionPoolCritic(latent_dim, self)


class AttentionPoolCritic(nn.Module):
    """See AttentionPool."""

    def __init__(self, latent_dim: int, options: AttentionPool) -> None:
        super().__init__()
        width, normed = options.hidden_dim, options.spectral_norm
        self.project_in = linear_layer(latent_dim, width, normed)
        self.queries = nn.Parameter(torch.empty(options.num_queries, width))
        nn.init.normal_(self.queries, std=width**-0.5)
        self.body = nn.Sequential(linear_layer(options.num_queries * width, width, normed), nn.GELU())
        self.head = linear_layer(width, 1, normed)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N], 0 for rows without a valid position."""
        return self.score(self.features(states, mask), mask)

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N, 1, D], what the head reads: one position a row, since attention has pooled them."""
        hidden_NSD = self.project_in(states.masked_fill(~mask[..., None], 0.0))
        # An empty row has nothing to attend to: let it see its own padding; `score` drops it.
        seen_NS1 = (mask | ~mask.any(1, keepdim=True))[..., None]
        logits_NSQ = (hidden_NSD @ self.queries.T).masked_fill(~seen_NS1, -torch.inf)
        found_NQD = logits_NSQ.softmax(1).transpose(1, 2) @ hidden_NSD
        features: Tensor = self.body(found_NQD.flatten(1))
        return features[:, None]

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N], from what `features` returned."""
        scores: Tensor = self.head(features[:, 0])
        return scores[:, 0].masked_fill(~mask.any(1), 0.0)
