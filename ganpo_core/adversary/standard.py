"""The reference's mean and deviation of every latent dimension, measured once before the first step.

Shape suffixes: N rows, S positions, H latent width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganpo_core.types import Latents

TINY = 1e-6
"""Smallest deviation, relative to the largest: dimensions that hardly move are not blown up to noise."""


@dataclass(frozen=True)
class Standard:
    """What latents are moved and scaled by."""

    mean: Tensor
    """[H], at least float32."""
    deviation: Tensor
    """[H], above 0."""

    @classmethod
    @torch.no_grad()
    def measure(cls, reference: Iterable[Latents]) -> Standard:
        """Over every valid position of the given latents; at least one."""
        count, total_H, squares_H = 0.0, torch.zeros(()), torch.zeros(())
        for latents in reference:
            states_MH = latents.states[latents.mask].double()
            count += len(states_MH)
            total_H = total_H.to(states_MH) + states_MH.sum(0)
            squares_H = squares_H.to(states_MH) + states_MH.square().sum(0)
        mean_H = total_H / max(count, 1.0)
        deviation_H = (squares_H / max(count, 1.0) - mean_H.square()).clamp(min=0).sqrt()
        return cls(mean_H, deviation_H.clamp(min=TINY * float(deviation_H.max()) or 1.0))

    def apply(self, latents: Latents) -> Latents:
        """(h - mean) / deviation, in at least float32."""
        wide = torch.promote_types(latents.states.dtype, torch.float32)
        mean_H, deviation_H = self.mean.to(wide), self.deviation.to(wide)
        return replace(latents, states=(latents.states.to(wide) - mean_H) / deviation_H)

    def tensors(self) -> dict[str, Tensor]:
        """To save."""
        return {"standard.mean": self.mean, "standard.deviation": self.deviation}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], like: Standard) -> Standard:
        """From `tensors`, on the device of `like`."""
        mean_H, deviation_H = (tensors[f"standard.{name}"].to(like.mean) for name in ("mean", "deviation"))
        return cls(mean_H, deviation_H)
