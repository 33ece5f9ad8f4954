"""The residual stream of one or more layers, token by token.

Shape suffixes: N rows, S positions, H latent width (of all layers together).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import LatentExtractor, Latents, Layer, Source, TokenMap


@dataclass(frozen=True)
class HiddenState(LatentExtractor):
    """Hidden states of every selected token: [N, S, H], H the model's width times the number of layers.

    Source: arXiv 2601.22083, section 4.1, which reads the last layer at every position.
    """

    layer: int | float | tuple[int | float, ...] = -1
    """0: the embeddings; 1, 2, …: after that decoder layer; negative: from the end, -1 being what the head reads, after
    the final norm; a fraction in (0, 1): that part of the depth. Several layers are concatenated."""
    positions: Literal["all", "response", "prompt"] = "all"
    """Which tokens count; `response` includes the end of sequence. Positions keep their places, others are masked."""
    norm: Literal["none", "rms", "layer"] = "none"
    """Scale the states of each layer over its width, without parameters; evens out layers of different size."""

    def __post_init__(self) -> None:
        if not self._layers:
            raise ValueError("layer names no layer; give one, or a list of them")
        if len(set(self._layers)) < len(self._layers):
            raise ValueError(f"layer names one layer twice: {list(self._layers)}")
        for layer in self._layers:
            if isinstance(layer, float) and not 0 < layer < 1:
                raise ValueError(f"layer {layer} is neither a whole number nor a fraction between 0 and 1")

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return tuple(Layer(layer) for layer in self._layers)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        states = [_scaled(captured[Layer(layer)], self.norm) for layer in self._layers]
        return Latents(states[0] if len(states) == 1 else torch.cat(states, dim=-1), self.selected(tokens))

    def selected(self, tokens: TokenMap) -> Tensor:
        if self.positions == "all":
            return tokens.valid
        return tokens.valid & (tokens.response if self.positions == "response" else tokens.prompt)

    @property
    def _layers(self) -> tuple[int | float, ...]:
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)


def _scaled(states_NSH: Tensor, norm: Literal["none", "rms", "layer"]) -> Tensor:
    if norm == "none":
        return states_NSH
    # Squares of half-precision states overflow; the result goes back to their type.
    wide_NSH = states_NSH.to(torch.promote_types(states_NSH.dtype, torch.float32))
    scale = F.rms_norm if norm == "rms" else F.layer_norm
    return scale(wide_NSH, wide_NSH.shape[-1:], eps=1e-6).to(states_NSH.dtype)
