"""Captured hidden states become latents, and an extractor's mistakes are named."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ganpo_core.components import LatentExtractor
from ganpo_core.errors import PluginError
from ganpo_core.types import Latents, Source, TokenMap


def read_latents(extractor: LatentExtractor, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
    """`extractor.extract`, with its result checked. Raises PluginError for latents that are not [N, S, H] and [N, S]."""
    latents = extractor.extract(captured, tokens)
    name, rows = type(extractor).__name__, tokens.valid.shape[0]
    if not isinstance(latents, Latents):
        raise PluginError(f"{name}.extract returned {type(latents).__name__}, not Latents")
    states, mask = latents.states, latents.mask
    if states.dim() != 3 or states.shape[0] != rows or mask.shape != states.shape[:2] or mask.dtype != torch.bool:
        raise PluginError(
            f"{name}.extract returned states {tuple(states.shape)} and a {mask.dtype} mask {tuple(mask.shape)} for "
            f"{rows} rows; expected [N, S, H] and bool [N, S]"
        )
    return latents
