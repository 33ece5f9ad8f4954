"""Attention over a packed row in one FlexAttention call: what a GPU runs fastest, soft cap and sliding window included.

Shape suffixes: A query heads, G key heads, L positions of the packed row, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from ganpo_core.data import Layout
from ganpo_core.errors import TrainingError

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Batch, head, query and key index to whether the query sees the key, as FlexAttention asks."""

RUN, BRANCH = 1, 2
"""Parts of a segment beside `SHARED`: what only the run's later tokens see, and what only the branch sees."""
SHARED = 0


class TokenPlaces(NamedTuple):
    """Of each token of a packed row, [L] each."""

    segment: Tensor
    part: Tensor
    """SHARED, RUN or BRANCH."""
    position: Tensor
    """From the start of its sequence."""


def attend_by_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    """[1, A, L, D] from queries [1, A, L, D] and keys [1, G, L, D]."""
    if dropout:
        raise TrainingError("FlexAttention has no dropout; set model.attention: sdpa, or model.disable_dropout: true")
    mask = layout.derived.get(("blocks", window))
    if mask is None:
        mask = layout.derived[("blocks", window)] = block_mask(layout, window)
    if torch.is_autocast_enabled(query.device.type):
        # Rotated queries and keys come in float32, values in the product's type: autocast does not reach this call.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    attention = _compiled(flex_attention) if query.is_cuda else cast(Callable[..., Any], flex_attention)
    groups = query.shape[1] != key.shape[1]
    found = attention(
        query, key, value, score_mod=_capped(softcap), block_mask=cast(BlockMask, mask), scale=scale, enable_gqa=groups
    )
    return cast(Tensor, found)


def block_mask(layout: Layout, window: int | None) -> BlockMask:
    """Which blocks of queries and keys meet at all, and the rule inside of them."""
    device, length = layout.input_ids.device, layout.input_ids.shape[1]
    places = token_places(layout)
    # Compiled, the mask of a long row is never made whole.
    make = _compiled(create_block_mask) if device.type == "cuda" else create_block_mask
    return cast(BlockMask, make(sees(places, window), None, None, length, length, device=str(device)))


def sees(places: TokenPlaces, window: int | None) -> MaskFunction:
    """The rule: the same segment, shared or own part, not later, and within the window of positions."""
    segment, part, position = places

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = position[query] - position[key]
        together = (segment[query] == segment[key]) & ((part[key] == part[query]) | (part[key] == SHARED))
        return together & (distance >= 0) & ((distance < window) if window is not None else (distance >= 0))

    return rule


def token_places(layout: Layout) -> TokenPlaces:
    """The places of a packed row's tokens, on its device."""
    numbers: list[int] = []
    parts: list[int] = []
    counts: list[int] = []
    for number, segment in enumerate(layout.segments):
        pieces = ((SHARED, segment.shared), (RUN, segment.length - segment.shared), (BRANCH, segment.branch))
        for part, count in pieces:
            numbers.append(number)
            parts.append(part)
            counts.append(count)
    repeats = torch.tensor(counts)
    segment_L = torch.tensor(numbers).repeat_interleave(repeats)
    part_L = torch.tensor(parts).repeat_interleave(repeats)
    device = layout.input_ids.device
    return TokenPlaces(segment_L.to(device), part_L.to(device), layout.position_ids[0])


@cache
def _capped(softcap: float | None) -> Callable[..., Tensor] | None:
    # One function for each cap: FlexAttention compiles anew for every new object.
    if softcap is None:
        return None

    def capped(score: Tensor, *_places: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@cache
def _compiled(function: Callable[..., object]) -> Callable[..., Any]:
    # Rows differ in length from batch to batch: shapes stay symbolic rather than compiled one by one.
    return torch.compile(function, dynamic=True)
