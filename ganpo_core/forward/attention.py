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

from ganpo_core.anatomy import base_model, is_composite, text_config
from ganpo_core.data import Layout
from ganpo_core.errors import TrainingError
from ganpo_core.forward.softcap import capped_attention

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

    def check_used(self, model: nn.Module) -> None:
        """Raises TrainingError unless each layer's attention went by the segments, with the layer's own window."""
        expected = expected_windows(model)
        if len(self.windows) != len(expected):
            raise TrainingError(
                f"{len(self.windows)} of {len(expected)} layers of {type(base_model(model)).__name__} attended by segments; "
                "the others took a packed row for one sequence"
            )
        if self.windows != expected:
            raise TrainingError(
                f"the sliding windows of {type(base_model(model)).__name__} do not reach its attention as its "
                "configuration has them"
            )


def expected_windows(model: nn.Module) -> list[int | None] | str:
    """Each layer's sliding window, None for full attention; or what its configuration has instead of attention."""
    config = text_config(model)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * int(config.num_hidden_layers)
    if other := sorted(set(types) - {"full_attention", "sliding_attention"}):
        return f"{type(base_model(model)).__name__} has layers of {', '.join(other)}"
    return [window if kind == "sliding_attention" else None for kind in types]


def use_segment_attention(model: nn.Module, name: str) -> str:
    """Let a model attend by segments from now on, where a pass brings them; returns its former implementation."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for known, within in _WITHIN.items():
        ALL_ATTENTION_FUNCTIONS.register(known, partial(_attention, within))
        ALL_MASK_ATTENTION_FUNCTIONS.register(known, sdpa_mask)
    return set_attention(model, name)


def set_attention(model: nn.Module, name: str | None = None) -> str:
    """Choose a model's attention implementation, unless `name` is None; returns the former one."""
    base = cast(Any, base_model(model))
    # Of a model that sees, the language model alone: images are sequences of their own, read in both directions.
    owner = base.get_decoder() if is_composite(model) else base
    former: str = owner.config._attn_implementation
    if name is not None and name != former:
        owner.set_attn_implementation(name)
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
    layout = packed.layout
    sizes = [size for segment in layout.segments for size in (segment.length, segment.branch) if size]
    parts = iter(zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True))
    found = []
    for segment in layout.segments:
        query_run, key_run, value_run = next(parts)
        allowed = _mask(layout, segment.length, segment.length, window, query.device)
        found.append(attend(query_run, key_run, value_run, allowed, scale, softcap, dropout, plain))
        if segment.branch:
            query_own, key_own, value_own = next(parts)
            # Distances between indices are those between positions: a branch goes on where the shared part ends.
            keys = torch.cat([key_run[:, :, : segment.shared], key_own], dim=2)
            values = torch.cat([value_run[:, :, : segment.shared], value_own], dim=2)
            allowed = _mask(layout, segment.branch, segment.shared + segment.branch, window, query.device)
            found.append(attend(query_own, keys, values, allowed, scale, softcap, dropout, plain))
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
    if softcap is not None and not plain and not dropout:
        return capped_attention(query, key, value, allowed, scale, softcap)
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


def _mask(
    layout: Layout, num_queries: int, num_keys: int, window: int | None, device: torch.device
) -> Tensor | None:
    """`causal_mask`, made once for a batch; None where plain causal attention needs no mask."""
    if window is not None and window >= num_keys:
        window = None
    if window is None and num_queries == num_keys:
        return None
    found = layout.derived.setdefault(
        (num_queries, num_keys, window), causal_mask(num_queries, num_keys, window, device)
    )
    assert isinstance(found, Tensor)
    return found


def _by_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: PackedPass,
    scale: float,
    window: int | None,
    softcap: float | None,
    dropout: float,
) -> Tensor:
    # Imported where it is used: FlexAttention brings the compiler with it.
    from ganpo_core.forward.blocks import attend_by_blocks

    return attend_by_blocks(query, key, value, packed.layout, scale, window, softcap, dropout)


_WITHIN: dict[str, Within] = {
    FUSED: attend_by_segments,
    PLAIN: partial(attend_by_segments, plain=True),
    BLOCKS: _by_blocks,
}
