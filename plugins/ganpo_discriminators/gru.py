"""A recurrent critic.

Shape suffixes: N rows, S positions, H latent width, D the critic's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganpo_core import Discriminator, PositiveInt
from ganpo_discriminators.layers import linear_layer, masked_mean


@dataclass(frozen=True)
class GRU(Discriminator):
    """A gated recurrent network reads the tokens of a row in both directions; the mean of its states is scored.

    Linear H -> D, one bidirectional GRU layer of width D, masked mean, Linear 2 D -> 1. It runs token by token, which
    is slow on a GPU.
    """

    hidden_dim: PositiveInt = 256
    """D."""

    def build(self, latent_dim: int) -> nn.Module:
        return GRUCritic(latent_dim, self.hidden_dim)


class GRUCritic(nn.Module):
    """See GRU."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.project_in = linear_layer(latent_dim, width)
        # Two layers of one direction each: padding then lies behind the last token in both.
        self.ahead = nn.GRU(width, width, batch_first=True)
        self.back = nn.GRU(width, width, batch_first=True)
        self.head = linear_layer(2 * width, 1)

    def train(self, mode: bool = True) -> GRUCritic:
        """Recurrent layers stay in training mode: without dropout it is the same, and cuDNN differentiates no other."""
        super().train(mode)
        self.ahead.train()
        self.back.train()
        return self

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N], 0 for rows without a valid position."""
        return self.score(self.features(states, mask), mask)

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N, S, 2 D], the states of both directions at each token; 0 at masked positions."""
        hidden_NSD = self.project_in(states.masked_fill(~mask[..., None], 0.0))
        rank_NS = mask.cumsum(1) - 1
        ahead_NS = _places(rank_NS, mask)
        back_NS = _places(mask.sum(1, keepdim=True) - 1 - rank_NS, mask)
        read = [_read(layer, hidden_NSD, places) for layer, places in ((self.ahead, ahead_NS), (self.back, back_NS))]
        return torch.cat(read, dim=-1).masked_fill(~mask[..., None], 0.0)

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N], from what `features` returned."""
        scores: Tensor = self.head(masked_mean(features, mask))
        return scores[:, 0].masked_fill(~mask.any(1), 0.0)


def _places(rank_NS: Tensor, mask_NS: Tensor) -> Tensor:
    """A permutation of each row's positions: where a token comes when the row is read; masked positions come last."""
    behind_NS = mask_NS.sum(1, keepdim=True) + (~mask_NS).cumsum(1) - 1
    return torch.where(mask_NS, rank_NS, behind_NS)


def _read(layer: nn.GRU, hidden_NSD: Tensor, places_NS: Tensor) -> Tensor:
    """The layer's states [N, S, D] at each token, the row read in the order of `places_NS`."""
    index_NSD = places_NS[..., None].expand_as(hidden_NSD)
    states_NSD: Tensor = layer(torch.zeros_like(hidden_NSD).scatter(1, index_NSD, hidden_NSD))[0]
    return states_NSD.gather(1, index_NSD)
