"""One latent a row: the mean of its hidden states, or one of them.

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
from ganpo_latents.positions import first, last


@dataclass(frozen=True)
class Pooled(HiddenState):
    """Hidden states pooled over the selected tokens: [N, 1, H], masked where a row has none."""

    pool: Literal["mean", "last_token", "first_response", "eos"] = "mean"
    """The mean over the selected tokens, the last of them, or the first or the last of them in the response."""

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        states_NSH, pooled_NS = self.states(captured), self.selected(tokens)
        # The mean of many half-precision states needs a wider sum, and small differences need a wider mean.
        states_NSH = states_NSH.to(torch.promote_types(states_NSH.dtype, torch.float32))
        sum_NH = states_NSH.masked_fill(~pooled_NS[..., None], 0.0).sum(1)
        pooled_NH = sum_NH / pooled_NS.sum(1, keepdim=True).clamp(min=1)
        return Latents(pooled_NH[:, None], pooled_NS.any(1, keepdim=True))

    def selected(self, tokens: TokenMap) -> Tensor:
        mask_NS = super().selected(tokens)
        if self.pool == "mean":
            return mask_NS
        if self.pool == "last_token":
            return last(mask_NS)
        in_response_NS = mask_NS & tokens.response
        return first(in_response_NS) if self.pool == "first_response" else last(in_response_NS)
