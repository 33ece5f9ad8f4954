"""A shallow critic of single tokens.

Shape suffixes: N rows, S positions, D the critic's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ganpo_discriminators.layers import linear_layer, masked_mean
from ganpo_discriminators.mlp import MLP

Pooling = Literal["mean", "max", "logsumexp"]


@dataclass(frozen=True)
class TokenMLP(MLP):
    """The multilayer perceptron of `mlp` on every token; a row's score pools those of its tokens.

    Unlike `mlp` it tells rows apart whose latents differ token by token but not on average.
    """

    pool: Pooling = "mean"
    """Of the tokens' scores. `max` and `logsumexp` let a single token decide, and are not 1-Lipschitz in the row."""

    @property
    def lipschitz(self) -> bool:
        return self.spectral_norm and self.pool == "mean"

    def build(self, latent_dim: int) -> nn.Module:
        head = linear_layer(self.hidden_dim, 1, self.spectral_norm)
        return TokenCritic(self.body(latent_dim), head, self.pool)


class TokenCritic(nn.Module):
    """See TokenMLP."""

    def __init__(self, body: nn.Module, head: nn.Linear, pool: Pooling) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.pool = pool

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N], 0 for rows without a valid position."""
        return self.score(self.features(states, mask), mask)

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N, S, D], what the head reads of each token."""
        features: Tensor = self.body(states.masked_fill(~mask[..., None], 0.0))
        return features

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N], from what `features` returned."""
        logits_NS1: Tensor = self.head(features)
        if self.pool == "mean":
            return masked_mean(logits_NS1, mask)[:, 0]
        empty_N1 = ~mask.any(1, keepdim=True)
        # An empty row has no largest logit: let it see its own padding, and drop the result.
        logits_NS = logits_NS1[..., 0].masked_fill(~(mask | empty_N1), -torch.inf)
        pooled_N = logits_NS.amax(1) if self.pool == "max" else logits_NS.logsumexp(1)
        return pooled_N.masked_fill(empty_N1[:, 0], 0.0)
