"""The logits of some tokens for some words at a time, and the products that are made of them.

Shape suffixes: M tokens, H width of the head's input, V words; C tokens and W words of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

LOGITS_HELD = {"cpu": 2**22, "cuda": 2**27}
"""Logits of a tile: 16 MB of float32 on a CPU, where larger ones are not faster; on a GPU enough to fill a product."""

FEWEST_WORDS = 1024
"""Of a tile; where the tokens would leave room for fewer, they are taken in parts."""


@dataclass(frozen=True)
class HeadSettings:
    """How logits are made."""

    softcap: float | None
    dtype: torch.dtype
    """Of the matrix products."""
    statistics: tuple[str, ...]


@dataclass
class Tile:
    """The logits of some tokens for some words, in a buffer that is overwritten by what is made of them."""

    words: slice
    logits: Tensor
    """[C, W]."""
    cap_slope: Tensor | None
    """[C, W], of the soft cap; None where there is none, or nobody asked."""
    states: Tensor
    """[C, H], in the dtype of the products."""
    weight: Tensor
    """[W, H], in the same."""

    def find(self, target_C: Tensor) -> tuple[Tensor, Tensor]:
        """[C, 1] each: where the tokens' own words stand in the tile, and whether they do."""
        place_C1 = target_C[:, None] - self.words.start
        inside_C1 = (place_C1 >= 0) & (place_C1 < self.logits.shape[1])
        return place_C1.clamp(0, self.logits.shape[1] - 1), inside_C1


def parts_of(states_MH: Tensor, weight_VH: Tensor) -> list[slice]:
    """The tokens in as few parts as leave room for tiles of FEWEST_WORDS; one part, if empty, where there is no token."""
    num_tokens = len(states_MH)
    most = max(1, _logits_held(states_MH) // min(FEWEST_WORDS, len(weight_VH)))
    return [slice(start, min(start + most, num_tokens)) for start in range(0, max(num_tokens, 1), most)]


def tiles(
    states_CH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    settings: HeadSettings,
    wide: torch.dtype,
    with_slope: bool,
) -> Iterator[Tile]:
    """All words, some at a time: each weight is read once for all tokens of the part."""
    num_tokens, num_words, cap = len(states_CH), len(weight_VH), settings.softcap
    size = max(1, min(num_words, _logits_held(states_CH) // max(num_tokens, 1)))
    states_CH = states_CH.to(settings.dtype)
    # Written again for every tile: a fresh 16 MB each time costs a CPU more than the softmax.
    product = torch.empty(num_tokens * size, dtype=settings.dtype, device=states_CH.device)
    logits = product if settings.dtype == wide else torch.empty_like(product, dtype=wide)
    cap_slope = torch.empty_like(logits) if cap is not None and with_slope else None
    for start in range(0, num_words, size):
        words = slice(start, min(start + size, num_words))
        weight_WH = weight_VH[words].to(settings.dtype)
        product_CW, logits_CW = (_shaped(buffer, num_tokens, len(weight_WH)) for buffer in (product, logits))
        with torch.autocast(states_CH.device.type, enabled=False):
            torch.mm(states_CH, weight_WH.T, out=product_CW)
        if logits is not product:
            logits_CW.copy_(product_CW)
        if bias_V is not None:
            logits_CW += bias_V[words]
        cap_slope_CW = None
        if cap is not None:
            logits_CW.div_(cap).tanh_()
            if cap_slope is not None:
                cap_slope_CW = _shaped(cap_slope, *logits_CW.shape)
                torch.square(logits_CW, out=cap_slope_CW).neg_().add_(1)
            logits_CW.mul_(cap)
        yield Tile(words, logits_CW, cap_slope_CW, states_CH, weight_WH)


def _shaped(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _logits_held(states: Tensor) -> int:
    return LOGITS_HELD.get(states.device.type, LOGITS_HELD["cpu"])


def add_product(total: Tensor, left: Tensor, right: Tensor, is_first: bool = False) -> None:
    """`total += left @ right`, or `=`, by products in `right`'s dtype."""
    if right.dtype == total.dtype:
        total.addmm_(left, right, beta=0 if is_first else 1)
    elif is_first:
        total.copy_(left.to(right.dtype) @ right)
    else:
        total += left.to(right.dtype) @ right
