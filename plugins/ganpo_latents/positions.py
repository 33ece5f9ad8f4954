"""Which of a row's positions are read.

Shape suffixes: N rows, S positions, K of them kept, H latent width.
"""

from __future__ import annotations

from torch import Tensor

from ganpo_core import Latents


def first(mask_NS: Tensor) -> Tensor:
    """The first True of each row alone; none where a row has none."""
    return mask_NS & (mask_NS.cumsum(1) == 1)


def last(mask_NS: Tensor) -> Tensor:
    """The last True of each row alone; none where a row has none."""
    return mask_NS & (mask_NS.cumsum(1) == mask_NS.sum(1, keepdim=True))


def evenly_spaced(mask_NS: Tensor, at_most: int) -> Tensor:
    """`at_most` of each row's True positions, or all where there are fewer; the last is always among them."""
    num_N1 = mask_NS.sum(1, keepdim=True)
    rank_NS, limit_N1 = mask_NS.cumsum(1), num_N1.clamp(max=at_most)
    # Of n places, those at which k / n of the way passes another whole number.
    divisor_N1 = num_N1.clamp(min=1)
    return mask_NS & (rank_NS * limit_N1 // divisor_N1 > (rank_NS - 1) * limit_N1 // divisor_N1)


def kept(latents: Latents, num_kept: int) -> Latents:
    """Latents of the first `num_kept` valid positions of each row, moved together; all rows as they are if none goes.

    Two at least: latents of one position a row are pooled ones, which weigh by rows and not by positions.
    """
    num_kept = max(2, num_kept)
    if num_kept >= latents.mask.shape[1]:
        return latents
    order_NK = (~latents.mask).int().argsort(dim=1, stable=True)[:, :num_kept]
    states_NKH = latents.states.gather(1, order_NK[..., None].expand(-1, -1, latents.states.shape[-1]))
    return Latents(states_NKH, latents.mask.gather(1, order_NK))
