"""Text and images of a row side by side in one latent.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ganpo_core import LatentExtractor, Latents, Layer, Source, TokenMap
from ganpo_vision.positions import image_mask, text_mask


@dataclass(frozen=True)
class CrossModal(LatentExtractor):
    """The mean state of a row's text beside the mean state at its images: [N, 1, 2 H], masked in rows without either."""

    layer: int | float = -1
    """As in text_positions."""
    positions: Literal["all", "response", "prompt"] = "response"
    """Which text is averaged."""

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return (Layer(self.layer),)

    def selected(self, tokens: TokenMap) -> Tensor:
        text_NS, image_NS = text_mask(tokens, self.positions), image_mask(tokens)
        return (text_NS | image_NS) & text_NS.any(1, keepdim=True) & image_NS.any(1, keepdim=True)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        states_NSH, selected_NS = captured[Layer(self.layer)], self.selected(tokens)
        image_NS = image_mask(tokens)
        means = [_mean(states_NSH, selected_NS & part_NS) for part_NS in (~image_NS, image_NS)]
        return Latents(torch.cat(means, dim=-1)[:, None], selected_NS.any(1, keepdim=True))


def _mean(states_NSH: Tensor, mask_NS: Tensor) -> Tensor:
    """[N, H], the mean over the mask; 0 where it is empty."""
    # The mean of many half-precision states needs a wider sum, and small differences need a wider mean.
    wide_NSH = states_NSH.to(torch.promote_types(states_NSH.dtype, torch.float32))
    return wide_NSH.masked_fill(~mask_NS[..., None], 0.0).sum(1) / mask_NS.sum(1, keepdim=True).clamp(min=1)
