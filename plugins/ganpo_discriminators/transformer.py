"""The paper's critic: a small Transformer encoder over the latents of a row.

Shape suffixes: N rows, S positions, H latent width, D the critic's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import Discriminator, Fraction, PositiveInt
from ganpo_discriminators.layers import linear_layer, masked_mean
from ganpo_discriminators.rows import PaddedRows, TightRows, rows_of

Overlong = Literal["keep_first", "keep_last"]


@dataclass(frozen=True)
class Transformer(Discriminator):
    """A Transformer encoder of whole rows: tokens attend to one another, and their mean is scored.

    Linear H -> D, learned positions counted over valid tokens, pre-norm encoder layers with GELU and no final norm,
    masked mean, Linear D -> D, GELU, Linear D -> 1. At the defaults it has 8,796,673 parameters for latents of width
    2304 and 9,714,177 for 4096; with `num_layers: 4`, 15,101,441 and 16,018,945. Attention and layer norm are not
    Lipschitz, whatever `spectral_norm` says.
    Source: arXiv 2601.22083, training details: 2 layers for Gemma2-2B-it, 4 for Llama3-8B-Instruct.
    """

    matters_with: ClassVar = {"overlong": {"max_positions": 4}}

    hidden_dim: PositiveInt = 512
    """D, the critic's width; a multiple of `num_heads`."""
    num_layers: PositiveInt = 2
    """Encoder layers."""
    num_heads: PositiveInt = 8
    """Attention heads a layer."""
    ffn_dim: PositiveInt | None = None
    """Width of a feed-forward block; null means 4 * hidden_dim."""
    dropout: Fraction = 0.1
    """In attention and after each block; active while the critic is in training mode."""
    max_positions: PositiveInt = 2048
    """Tokens of a row that are read at most."""
    overlong: Overlong = "keep_last"
    """Which tokens of a longer row are read."""
    spectral_norm: bool = True
    """Divide the weights before and after the encoder by their largest singular value."""

    def __post_init__(self) -> None:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}")

    def build(self, latent_dim: int) -> nn.Module:
        return TransformerCritic(latent_dim, self)


class TransformerCritic(nn.Module):
    """See Transformer."""

    def __init__(self, latent_dim: int, options: Transformer) -> None:
        super().__init__()
        width = options.hidden_dim
        self.keeps_last = options.overlong == "keep_last"
        self.project_in = linear_layer(latent_dim, width, options.spectral_norm)
        self.positions = nn.Embedding(options.max_positions, width)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(
            EncoderLayer(width, options.num_heads, options.ffn_dim or 4 * width, options.dropout)
            for _ in range(options.num_layers)
        )
        self.head = nn.Sequential(
            linear_layer(width, width, options.spectral_norm), nn.GELU(), linear_layer(width, 1, options.spectral_norm)
        )

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N], 0 for rows without a valid position."""
        return self.score(self.features(states, mask), mask)

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        """[N, S, D], the encoder's output; 0 at positions that are not read."""
        rank_NS, read_NS = self._ranks(mask)
        rows = rows_of(read_NS)
        hidden: Tensor = self.project_in(rows.tokens(states)) + self.positions(rows.ranks(rank_NS))
        for layer in self.layers:
            hidden = layer(hidden, rows)
        return rows.positions(hidden)

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        """[N], from what `features` returned."""
        _, read_NS = self._ranks(mask)
        scores: Tensor = self.head(masked_mean(features, read_NS))
        return scores[:, 0].masked_fill(~mask.any(1), 0.0)

    def _ranks(self, mask_NS: Tensor) -> tuple[Tensor, Tensor]:
        """The place of each token among those of its row that are read, and which are read."""
        limit = self.positions.num_embeddings
        rank_NS = mask_NS.cumsum(1) - 1
        if self.keeps_last:
            rank_NS = rank_NS - (mask_NS.sum(1, keepdim=True) - limit).clamp(min=0)
        read_NS = mask_NS & (rank_NS >= 0) & (rank_NS < limit)
        return rank_NS.clamp(0, limit - 1), read_NS


class EncoderLayer(nn.Module):
    """A pre-norm encoder layer: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Our own rather than torch's, whose fast path gives other numbers in evaluation mode than in training mode.
    """

    def __init__(self, width: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = linear_layer(width, 3 * width)
        self.attention_out = linear_layer(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = linear_layer(width, ffn_dim)
        self.ffn_out = linear_layer(ffn_dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, rows: PaddedRows | TightRows) -> Tensor:
        """As `hidden`, [..., D]: tokens laid out as `rows` does it, each attending to those of its row."""
        hidden = hidden + self.dropout(self._attention(self.attention_norm(hidden), rows))
        inner = self.dropout(F.gelu(self.ffn_in(self.ffn_norm(hidden))))
        result: Tensor = hidden + self.dropout(self.ffn_out(inner))
        return result

    def _attention(self, hidden: Tensor, rows: PaddedRows | TightRows) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0
        out: Tensor = self.attention_out(rows.attend(self.query_key_value(hidden), self.num_heads, dropout))
        return out
