"""Captured hidden states become latents, and an extractor's mistakes are named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from ganpo_core.asking import ask, kind_of, method_name
from ganpo_core.components import LatentExtractor
from ganpo_core.errors import PluginError
from ganpo_core.types import Latents, Source, TokenMap


def read_latents(extractor: LatentExtractor, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
    """`extractor.extract`, with its result checked. Raises PluginError for latents that are not [N, S, H] and [N, S]."""
    latents = ask(extractor, "extract", captured, tokens)
    name, rows = method_name(extractor, "extract"), tokens.valid.shape[0]
    if not isinstance(latents, Latents):
        raise PluginError(f"{name} returned {type(latents).__name__}, not Latents")
    states, mask = latents.states, latents.mask
    if states.dim() != 3 or states.shape[0] != rows or mask.shape != states.shape[:2] or mask.dtype != torch.bool:
        raise PluginError(
            f"{name} returned states {tuple(states.shape)} and a {mask.dtype} mask {tuple(mask.shape)} for "
            f"{rows} rows; expected [N, S, H] and bool [N, S]"
        )
    return latents


def read_selected(extractor: LatentExtractor, tokens: TokenMap) -> Tensor:
    """`extractor.selected`, [N, S] bool. Raises PluginError for anything else."""
    found = ask(extractor, "selected", tokens)
    if not (isinstance(found, Tensor) and found.shape == tokens.valid.shape and found.dtype == torch.bool):
        wanted = f"expected bool {tuple(tokens.valid.shape)}"
        raise PluginError(f"{method_name(extractor, 'selected')} returned {kind_of(found)}; {wanted}")
    return found


def read_sources(extractor: LatentExtractor, model: nn.Module) -> tuple[Source, ...]:
    """`extractor.sources`. Raises PluginError for anything but places in a model."""
    found = ask(extractor, "sources", model)
    if not isinstance(found, tuple) or not all(isinstance(source, get_args(Source)) for source in found):
        raise PluginError(
            f"{method_name(extractor, 'sources')} returned {kind_of(found)}; expected a tuple of Layer, Module and "
            "ImageFeatures"
        )
    return found
