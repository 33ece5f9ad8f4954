"""The tokens of a batch of rows, with or without the padding between them.

Shape suffixes: N rows, S positions, M tokens that are read, D width, A attention heads, E width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganpo_discriminators.dropout_attention import dropout_attention


@dataclass(frozen=True)
class PaddedRows:
    """Every position is computed, and padding is masked: nothing waits for a device to say where the padding is."""

    read: Tensor
    """[N, S] bool."""

    def tokens(self, states: Tensor) -> Tensor:
        """[N, S, D] as it is, 0 at what is not read."""
        return states.masked_fill(~self.read[..., None], 0.0)

    def ranks(self, rank_NS: Tensor) -> Tensor:
        """A number of each token, laid out as `tokens`."""
        return rank_NS

    def attend(self, query_key_value: Tensor, num_heads: int, dropout: float) -> Tensor:
        """[N, S, D] from [N, S, 3 D]: every token over the tokens of its row."""
        split = query_key_value.reshape(*self.read.shape, 3, num_heads, -1)
        query_NASE, key_NASE, value_NASE = split.transpose(1, 3).unbind(2)
        # A row without a single key would be 0/0 in the softmax: let it attend to its first position.
        allowed_NS = self.read.clone()
        allowed_NS[:, 0] |= ~self.read.any(1)
        mixed_NASE = F.scaled_dot_product_attention(
            query_NASE, key_NASE, value_NASE, attn_mask=allowed_NS[:, None, None], dropout_p=dropout
        )
        return mixed_NASE.transpose(1, 2).flatten(2)

    def positions(self, tokens: Tensor) -> Tensor:
        """[N, S, D] from what `tokens` was made into; 0 at what is not read."""
        return tokens.masked_fill(~self.read[..., None], 0.0)


class TightRows:
    """The tokens that are read, row after row: no padding is computed. For a CPU, where lengths are at hand."""

    def __init__(self, read_NS: Tensor) -> None:
        self.shape = read_NS.shape
        self.places_M = read_NS.flatten().nonzero()[:, 0]
        self.lengths: list[int] = read_NS.sum(1).tolist()

    def tokens(self, states: Tensor) -> Tensor:
        """[M, D]."""
        return states.flatten(0, 1).index_select(0, self.places_M)

    def ranks(self, rank_NS: Tensor) -> Tensor:
        """A number of each token, laid out as `tokens`."""
        return rank_NS.flatten().index_select(0, self.places_M)

    def attend(self, query_key_value: Tensor, num_heads: int, dropout: float) -> Tensor:
        """[M, D] from [M, 3 D]: every token over the tokens of its row."""
        found = []
        for row in torch.split(query_key_value, [length for length in self.lengths if length]):
            query_AME, key_AME, value_AME = row.reshape(len(row), 3, num_heads, -1).permute(1, 2, 0, 3)
            if dropout:
                mixed_AME = dropout_attention(query_AME, key_AME, value_AME, dropout)
            else:
                mixed_AME = F.scaled_dot_product_attention(query_AME, key_AME, value_AME)
            found.append(mixed_AME.transpose(0, 1).flatten(1))
        return torch.cat(found) if found else query_key_value[:, : query_key_value.shape[-1] // 3]

    def positions(self, tokens: Tensor) -> Tensor:
        """[N, S, D] from what `tokens` was made into; 0 at what is not read."""
        flat = tokens.new_zeros(self.shape.numel(), tokens.shape[-1]).index_copy(0, self.places_M, tokens)
        return flat.view(*self.shape, tokens.shape[-1])


def rows_of(read_NS: Tensor) -> PaddedRows | TightRows:
    """The way of computing rows that suits the device."""
    # Where a plan is made, tensors have shapes and no values: nobody knows where the padding is.
    has_lengths = read_NS.device.type == "cpu" and type(read_NS) is Tensor
    return TightRows(read_NS) if has_lengths else PaddedRows(read_NS)
