"""Attention over the segments of a packed row, through the registry of attention functions that transformers offers.

A pass over a packed row hands a `PackedPass` to the model as one more keyword argument. Models of transformers carry
keyword arguments down to the attention function, and gradient checkpointing keeps them for the second run of a layer;
so a function that is called without one belongs to no packed pass, and attends as transformers' own would.

Shape suffixes: A query heads, G key heads, L positions of the packed row, Q queries, K keys, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core.data import Layout
from ganpo_core.errors import TrainingError
from ganpo_core.models import base_model

FUSED, PLAIN, BLOCKS = "ganpo_fused", "ganpo_plain", "ganpo_blocks"
"""Names in the registry: attention by torch's fused function, by plain products, by FlexAttention."""

PASS = "ganpo_pass"
"""The keyword argument."""


class PackedPass:
    """One forward pass over a packed row, and the witness that every attention layer saw it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.windows: list[int | None] = []
        """Of each call, in order: the sliding window, or None for full attention."""

    def arguments(self) -> dict[str, Any]:
        """What the model is called with beside tokens and positions."""
        # A mask of four dimensions is passed on as it is: no dense mask of the row is made, and none is guessed from
        # positions that start again.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.layout.input_ids.device)
        return {"attention_mask": mask, PASS: self}

    def check_used(self, num_layers: int) -> None:
        """Raises TrainingError unless each layer's attention went by the segments."""
        if len(self.windows) < num_layers:
            raise TrainingError(
                f"{len(self.windows)} of {num_layers} layers attended by segments; the others saw a packed row as one "
                "sequence. Set training.packing: padded"
            )


def use_segment_attention(model: nn.Module, name: str) -> str:
    """Let a model attend by segments from now on, where a pass brings them; returns its former implementation."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for known, within in _WITHIN.items():
        ALL_ATTENTION_FUNCTIONS.register(known, partial(_attention, within))
        ALL_MASK_ATTENTION_FUNCTIONS.register(known, sdpa_mask)
    return set_attention(model, name)


def set_attention(model: nn.Module, name: str) -> str:
    """Choose a model's attention implementation; returns the former one."""
    base = cast(Any, base_model(model))
    former: str = base.config._attn_implementation
    base.set_attn_implementation(name)
    return former


Within = Callable[[Tensor, Tensor, Tensor, PackedPass, float, int | None, float | None, float], Tensor]
"""Attention in a packed pass: query, key, value, the pass, scale, sliding window, soft cap, dropout -> [1, A, L, D]."""


def _attention(
    within: Within,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What the registry calls: [N, A, L, D] queries to [N, L, A, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    packed: PackedPass | None = others.get(PASS)
    if others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise TrainingError(f"{type(module).__name__} adds a bias of its own to attention; set training.packing: padded")
    if packed is None:
        found = attend(query, key, value, attention_mask, scale, softcap, dropout)
    else:
        packed.windows.append(sliding_window)
        found = within(query, key, value, packed, scale, sliding_window, softcap, dropout)
    return found.transpose(1, 2).contiguous(), None


def attend_by_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: PackedPass,
    scale: float,
    window: int | None,
    softcap: float | None,
    dropout: float,
    plain: bool = False,
) -> Tensor:
    """[1, A, L, D]: two attentions for each segment, run over run, and branch over what it continues and itself."""
    segments = packed.layout.segments
    sizes = [size for segment in segments for size in (segment.length, segment.branch) if size]
    parts = iter(zip(*(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True))
    found = []
    for segment in segments:
        run = next(parts)
        found.append(attend(*run, _mask(packed.layout, run, window), scale, softcap, dropout, plain))
        if segment.branch:
            own = next(parts)
            # Index distances are position distances here: a branch's positions go on where the shared part ends.
            joined = own[0], *(torch.cat([r[:, :, : segment.shared], o], dim=2) for r, o in zip(run[1:], own[1:], strict=True))
            found.append(attend(*joined, _mask(packed.layout, joined, window), scale, softcap, dropout, plain))
    return torch.cat(found, dim=2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    allowed: Tensor | None,
    scale: float,
    softcap: float | None,
    dropout: float,
    plain: bool = False,
) -> Tensor:
    """[N, A, Q, D] from [N, G, K, D] keys; `allowed` is [..., Q, K] bool, None for queries that are the last K's."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    num_queries, num_keys = query.shape[2], key.shape[2]
    if allowed is None and 1 < num_queries < num_keys:
        allowed = causal_mask(num_queries, num_keys, None, query.device)
    if softcap is None and not plain:
        causal = allowed is None and num_queries > 1
        return F.scaled_dot_product_attention(query, key, value, allowed, dropout, is_causal=causal, scale=scale)
    if allowed is None and num_queries > 1:
        allowed = causal_mask(num_queries, num_keys, None, query.device)
    scores = query @ key.transpose(2, 3) * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    if allowed is not None:
        # The lowest number rather than -inf: a row of padding with nothing allowed stays finite.
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    return F.dropout(weights, dropout) @ value


def causal_mask(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """[Q, K] bool for queries at the last of the keys' positions, each seeing itself and `window` - 1 before it."""
    position_Q = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    distance_QK = position_Q - torch.arange(num_keys, device=device)
    allowed_QK = distance_QK >= 0
    return allowed_QK if window is None else allowed_QK & (distance_QK < window)


def _mask(layout: Layout, part: tuple[Tensor, ...], window: int | None) -> Tensor | None:
    num_queries, num_keys = part[0].shape[2], part[1].shape[2]
    if window is not None and window >= num_keys:
        window = None
    if window is None and num_queries == num_keys:
        return None  # plain causal attention needs no mask
    key = (num_queries, num_keys, window)
    if key not in layout.derived:
        layout.derived[key] = causal_mask(*key, part[0].device)
    return cast(Tensor, layout.derived[key])


def _by_flex(*arguments: Any) -> Tensor:
    from ganpo_core.forward.flex import attend_by_blocks

    return attend_by_blocks(*arguments)


_WITHIN: dict[str, Within] = {
    FUSED: attend_by_segments,
    PLAIN: partial(attend_by_segments, plain=True),
    BLOCKS: _by_flex,
}
