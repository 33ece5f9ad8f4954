"""Latents of models that see, one file each way of reading them."""

from __future__ import annotations

from ganpo_core import LatentExtractor, hookimpl


@hookimpl
def ganpo_latent_extractors() -> dict[str, type[LatentExtractor]]:
    """The extractors by the name that `latents: {use: …}` takes."""
    # Imported here: naming the extractors must not import torch.
    from ganpo_vision.cross_modal import CrossModal
    from ganpo_vision.image_path import Projector, VisionTower
    from ganpo_vision.positions import ImagePositions, TextPositions

    return {
        "text_positions": TextPositions,
        "image_positions": ImagePositions,
        "vision_tower": VisionTower,
        "projector": Projector,
        "cross_modal": CrossModal,
    }
