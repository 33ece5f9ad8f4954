"""What becomes of images before the language model: the vision tower's states, and the projector's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from ganpo_core import ImageFeatures, LatentExtractor, Latents, Source, TokenMap
from ganpo_vision.positions import image_mask


@dataclass(frozen=True)
class ImagePath(LatentExtractor):
    """States of one part of the image path, at the positions of the images' tokens."""

    shared_by_sides: ClassVar[bool] = True
    part: ClassVar[Literal["tower", "projector"]]

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return (ImageFeatures(self.part),)

    def selected(self, tokens: TokenMap) -> Tensor:
        return image_mask(tokens)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[ImageFeatures(self.part)], self.selected(tokens))


@dataclass(frozen=True)
class VisionTower(ImagePath):
    """The last states of the vision tower: [N, S, H] at the tokens of images, each the mean of the states it stands for.

    H is the tower's width. A tower that is frozen cannot move, and is refused.
    """

    part: ClassVar[Literal["tower", "projector"]] = "tower"


@dataclass(frozen=True)
class Projector(ImagePath):
    """What the projector hands to the language model in place of image tokens: [N, S, H], H the language model's width."""

    part: ClassVar[Literal["tower", "projector"]] = "projector"
