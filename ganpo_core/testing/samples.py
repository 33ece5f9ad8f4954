"""Small random latents. Shape suffixes: N rows, S positions, H latent width."""

from __future__ import annotations

import torch
from torch import nn

from ganpo_core.testing.expect import GARBAGE
from ganpo_core.types import Latents

NUM_POSITIONS = 7
LENGTHS = (3, 7, 1, 5, 0)
"""Of the rows; the last is empty."""


def ragged_latents(width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Latents:
    """Right-padded rows of `LENGTHS` normal latents; the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(LENGTHS), NUM_POSITIONS, width, generator=generator, dtype=torch.float64)
    return Latents(states.to(dtype), torch.arange(NUM_POSITIONS) < torch.tensor(LENGTHS)[:, None])


def with_garbage(latents: Latents, garbage: float = GARBAGE) -> Latents:
    """The same latents, with masked positions overwritten."""
    return Latents(latents.states.masked_fill(~latents.mask[..., None], garbage), latents.mask)


def wider(latents: Latents) -> Latents:
    """The same latents, with three more masked positions."""
    return Latents(nn.functional.pad(latents.states, (0, 0, 0, 3), value=7.0), nn.functional.pad(latents.mask, (0, 3)))
