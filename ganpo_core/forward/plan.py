"""How the passes of a run are made: which layout the model takes, and who turns its states into log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Literal

import torch
from torch import nn

from ganpo_core.anatomy import base_model, text_config
from ganpo_core.data import Packing, TokenPair
from ganpo_core.errors import ConfigError, TrainingError
from ganpo_core.forward.attention import BLOCKS, FUSED, PLAIN, expected_windows, set_attention, use_segment_attention
from ganpo_core.forward.check import packing_check
from ganpo_core.forward.head import Head, find_head
from ganpo_core.models import Models

TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-4, torch.bfloat16: 0.3, torch.float16: 0.1}
"""By how much layouts may differ, for the dtype of the weights: in nats of a token's log-probability, and in the relative
norm of the gradient at the embeddings. Norms in float32 round even a float64 model."""


@dataclass(frozen=True)
class PassPlan:
    """What every forward pass of a run has in common."""

    packing: Packing = "padded"
    head: Head | None = None
    """None where the model makes the logits of response positions itself."""


def plan_passes(
    models: Models,
    packing: Literal["auto", "shared", "packed", "padded"],
    attention: str,
    pairs: Sequence[TokenPair],
    pad_token_id: int,
    obstacles: Sequence[str] = (),
) -> tuple[PassPlan, list[str]]:
    """The plan, and a line for each thing that this model or this run cannot have.

    Decided on the models themselves: `pairs`, a few of the data, are scored in both ways, and must agree. `obstacles`
    are reasons of the run against packing. Raises ConfigError where the file asks for a layout that is not possible.
    """
    every = [models.policy] if models.reference is None else [models.policy, models.reference]
    notes = []
    head: Head | None = None
    for model in every:
        found = _usable_head(model, pairs, pad_token_id, models.dtype)
        if isinstance(found, str):
            notes.append(f"model: logits of response positions are made whole: {found}")
            head = None
            break
        head = found
    if packing == "padded":
        return PassPlan("padded", head), notes
    wanted: Packing = "shared" if packing == "auto" else packing
    types = next((pair.images.token_types for pair in pairs if pair.images is not None), {})
    reasons = [*obstacles, *packing_obstacles(models.policy, attention, models.device, types)]
    if not reasons:
        former = [set_attention(model) for model in every]
        for name in _implementations(attention, models.device):
            failed = [_attends(model, name, wanted, head, pairs, pad_token_id) for model in every]
            if not any(failed):
                return PassPlan(wanted, head), notes
            reasons += [reason for reason in failed if reason]
            for model, implementation in zip(every, former, strict=True):
                set_attention(model, implementation)
    if packing != "auto":
        raise ConfigError(f"training.packing: {packing} is not possible here: {reasons[-1]}; use auto or padded")
    return PassPlan("padded", head), [*notes, f"training.packing: padded rows, since {reasons[-1]}"]


def _usable_head(model: nn.Module, pairs: Sequence[TokenPair], pad: int, dtype: torch.dtype) -> Head | str:
    head = find_head(model, dtype)
    if isinstance(head, str):
        return head
    try:
        gap = packing_check(model, "padded", replace(head, dtype=None), pairs, pad)
    except TrainingError as error:
        return str(error)
    if not gap.within(layout_tolerance(model)):
        return f"{type(base_model(model)).__name__} does more than a linear layer with them ({gap})"
    return head


def _attends(model: nn.Module, name: str, packing: Packing, head: Head | None, pairs: Sequence[TokenPair], pad: int) -> str:
    """Let a model attend by segments and compare; why it cannot, with everything as it was, or ""."""
    former = use_segment_attention(model, name)
    try:
        gap = packing_check(model, packing, None if head is None else replace(head, dtype=None), pairs, pad)
        if gap.within(layout_tolerance(model)):
            return ""
        reason = f"{type(base_model(model)).__name__} computes something else in a packed row ({gap})"
    except (TrainingError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # Whatever a model of unknown make does with a packed row, padded rows are still there for it.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    set_attention(model, former)
    return reason


def packing_obstacles(
    model: nn.Module, attention: str, device: torch.device, token_types: Mapping[str, str]
) -> Iterator[str]:
    """What speaks against packing before anything is run."""
    base = base_model(model)
    if hasattr(getattr(base, "base_model", base), "get_rope_index"):
        yield f"{type(base).__name__} gives images positions of several dimensions, which it counts in whole rows"
    elif set(token_types) & set(signature(base.forward).parameters):
        yield f"{type(base).__name__} attends in both directions within images or prompts, and packed rows do not"
    if attention not in ("auto", "sdpa", "eager", "flex_attention"):
        yield f"model.attention: {attention} takes padded rows here (auto, sdpa and eager can pack)"
    if attention == "flex_attention" and device.type != "cuda":
        yield "model.attention: flex_attention has no backward pass on this device"
    if getattr(base, "_supports_attention_backend", False) is not True or text_config(model).is_encoder_decoder:
        yield f"{type(base).__name__} does not take attention from transformers' registry"
    elif getattr(text_config(model), "reorder_and_upcast_attn", False):
        yield f"{type(base).__name__} with reorder_and_upcast_attn computes attention in a way of its own"
    else:
        windows = expected_windows(model)
        if isinstance(windows, str):
            yield windows


def _implementations(attention: str, device: torch.device) -> tuple[str, ...]:
    """What to try, best first."""
    if attention == "eager":
        return (PLAIN,)
    if device.type != "cuda" or attention == "sdpa":
        return (FUSED,)
    return (BLOCKS,) if attention == "flex_attention" else (BLOCKS, FUSED)


def layout_tolerance(model: nn.Module) -> float:
    """By how much the layouts of a model may differ."""
    return TOLERANCE.get(next(model.parameters()).dtype, 0.0)
