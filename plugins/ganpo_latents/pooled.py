"""One latent a row: the mean of its hidden states, or the last of them.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ganpo_core import Latents, Source, TokenMap
from ganpo_latents.hidden_state import HiddenState


@dataclass(frozen=True)
class Pooled(HiddenState):
    """Hidden states pooled over the selected tokens: [N, 1, H], masked where a row has none."""

    pool: Literal["mean", "last_token"] = "mean"
    """The mean over the selected positions, or the last of them."""

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        latents = super().extract(captured, tokens)
        weight_NS = latents.mask if self.pool == "mean" else _last(latents.mask)
        # The mean of many half-precision states needs a wider sum, and small differences need a wider mean.
        states_NSH = latents.states.to(torch.promote_types(latents.states.dtype, torch.float32))
        sum_NH = states_NSH.masked_fill(~weight_NS[..., None], 0.0).sum(1)
        pooled_NH = sum_NH / weight_NS.sum(1, keepdim=True).clamp(min=1)
        return Latents(pooled_NH[:, None], latents.mask.any(1, keepdim=True))


def _last(mask_NS: Tensor) -> Tensor:
    """The last True of each row alone; none where a row has none."""
    return mask_NS & (mask_NS.cumsum(1) == mask_NS.sum(1, keepdim=True))
