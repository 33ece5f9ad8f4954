"""How the passes of a run are made: which layout the model takes, and who turns its states into log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from ganpo_core.data import Packing, TokenPair, collate
from ganpo_core.errors import ConfigError, TrainingError
from ganpo_core.forward.attention import BLOCKS, FUSED, PLAIN, expected_windows, set_attention, use_segment_attention
from ganpo_core.forward.head import Head, find_head
from ganpo_core.forward.response import response_pass
from ganpo_core.models import Models, base_model, text_config
from ganpo_core.types import PairLogps

TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Nats by which layouts may differ in a token's log-probability: rounding, for the dtype of the weights."""

PROBE_TOKENS = 24
"""Tokens of each part of the pairs that the comparison uses."""


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
    reasons = [*obstacles, *_reasons(models.policy, attention, models.device)]
    names = []
    if not reasons:
        names = [use_segment_attention(model, _implementation(attention, models.device)) for model in every]
        reasons = [reason for model in every for reason in _differences(model, wanted, head, pairs, pad_token_id)]
    if not reasons:
        return PassPlan(wanted, head), notes
    for model, name in zip(every, names, strict=False):
        set_attention(model, name)
    if packing != "auto":
        raise ConfigError(f"training.packing: {packing} is not possible here: {reasons[0]}; use auto or padded")
    return PassPlan("padded", head), [*notes, f"training.packing: padded rows, since {reasons[0]}"]


def packing_check(
    model: nn.Module, packing: Packing, head: Head | None, pairs: Sequence[TokenPair], pad_token_id: int
) -> float:
    """The largest difference, in nats, of a token's log-probability from padded rows and the model's own logits.

    The model must attend by segments already (`use_segment_attention`) for any packing but `padded`. Raises
    TrainingError where its attention does not go by them.
    """
    device = next(model.parameters()).device
    short = [_shortened(pair) for pair in pairs]
    batch = collate(short, pad_token_id).to(device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _evaluating(model):
        expected = response_pass(model, model, batch).logps
        found = response_pass(model, model, replace(batch, packing=packing), head=head).logps
    assert isinstance(expected, PairLogps) and isinstance(found, PairLogps)
    gaps = [
        (ours.logps - theirs.logps).abs().max()
        for ours, theirs in ((found.chosen, expected.chosen), (found.rejected, expected.rejected))
    ]
    return float(torch.stack(gaps).max())


def _usable_head(model: nn.Module, pairs: Sequence[TokenPair], pad: int, dtype: torch.dtype) -> Head | str:
    head = find_head(model, dtype)
    if isinstance(head, str):
        return head
    try:
        gap = packing_check(model, "padded", replace(head, dtype=None), pairs, pad)
    except TrainingError as error:
        return str(error)
    if not gap <= _tolerance(model):
        return f"{type(base_model(model)).__name__} does more than a linear layer with them ({gap:.2g} nats apart)"
    return head


def _differences(
    model: nn.Module, packing: Packing, head: Head | None, pairs: Sequence[TokenPair], pad: int
) -> Iterator[str]:
    try:
        gap = packing_check(model, packing, None if head is None else replace(head, dtype=None), pairs, pad)
    except (TrainingError, NotImplementedError) as error:
        yield str(error)
        return
    if not gap <= _tolerance(model):
        yield f"{type(base_model(model)).__name__} gives other log-probabilities in a packed row ({gap:.2g} nats apart)"


def _reasons(model: nn.Module, attention: str, device: torch.device) -> Iterator[str]:
    """What speaks against packing before anything is run."""
    base = base_model(model)
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


def _implementation(attention: str, device: torch.device) -> str:
    if attention == "eager":
        return PLAIN
    return BLOCKS if device.type == "cuda" and attention != "sdpa" else FUSED


def _tolerance(model: nn.Module) -> float:
    return TOLERANCE.get(next(model.parameters()).dtype, 0.0)


def _shortened(pair: TokenPair) -> TokenPair:
    parts = (pair.prompt[-PROBE_TOKENS:], pair.chosen[:PROBE_TOKENS], pair.rejected[:PROBE_TOKENS])
    return replace(pair, prompt=parts[0], chosen=parts[1], rejected=parts[2])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
