"""The language model's hidden states, at the positions of text and of images.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganpo_core import LatentExtractor, Latents, Layer, Source, TokenMap


@dataclass(frozen=True)
class TextPositions(LatentExtractor):
    """Hidden states of every token but those of images: [N, S, H]. Without images, all of them."""

    layer: int | float = -1
    """0: the embeddings; 1, 2, …: after that decoder layer; negative: from the end, -1 being what the head reads; a
    fraction in (0, 1): that part of the depth."""
    positions: Literal["all", "response", "prompt"] = "all"
    """Which tokens count; `response` includes the end of sequence."""

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return (Layer(self.layer),)

    def selected(self, tokens: TokenMap) -> Tensor:
        return text_mask(tokens, self.positions)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[Layer(self.layer)], self.selected(tokens))


@dataclass(frozen=True)
class ImagePositions(LatentExtractor):
    """The language model's hidden states at the tokens of images: [N, S, H], masked in rows without one.

    They depend on the images and on what stands before them, never on the response.
    """

    shared_by_sides: ClassVar[bool] = True

    layer: int | float = -1
    """As in text_positions; 0 is what the projector hands over."""

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return (Layer(self.layer),)

    def selected(self, tokens: TokenMap) -> Tensor:
        return image_mask(tokens)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[Layer(self.layer)], self.selected(tokens))


def image_mask(tokens: TokenMap) -> Tensor:
    """[N, S], the tokens of images; none where the model reads text alone."""
    return torch.zeros_like(tokens.valid) if tokens.image is None else tokens.image & tokens.valid


def text_mask(tokens: TokenMap, positions: Literal["all", "response", "prompt"]) -> Tensor:
    """[N, S], the tokens of text among these positions."""
    part_NS = {"all": tokens.valid, "response": tokens.response, "prompt": tokens.prompt}[positions]
    return part_NS & tokens.valid & ~image_mask(tokens)
