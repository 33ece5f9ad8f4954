"""Log-probabilities of response tokens from one forward pass over chosen and rejected rows.

Shape suffixes: N rows (2B, chosen then rejected), S positions, K last positions scored, T response tokens, V words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganpo_core.data import PairBatch
from ganpo_core.forward.capture import capture
from ganpo_core.models import base_model
from ganpo_core.types import PairLogps, Source, TokenLogps


@dataclass(frozen=True)
class Pass:
    """What one forward pass over a batch gave."""

    logps: PairLogps | None
    """None where nobody asked for log-probabilities."""
    captured: Mapping[Source, Tensor]
    """[N, S, H] each, chosen rows first."""


def response_pass(
    run: Callable[..., Any], model: nn.Module, batch: PairBatch, sources: Sequence[Source] = (), logps: bool = True
) -> Pass:
    """Run `run` (the model, or what wraps it) on a batch; capture `sources` in `model`; score the responses.

    Logits are computed from the first response position on; without `logps` for a single position.
    """
    keep = batch.input_ids.shape[1] - batch.first_response + 1 if logps else 1
    accepted = inspect.signature(base_model(model).forward).parameters
    options = {"logits_to_keep": keep} if "logits_to_keep" in accepted else {}
    with capture(model, sources) as captured:
        output = run(
            input_ids=batch.input_ids,
            attention_mask=batch.tokens.valid.long(),
            position_ids=batch.position_ids,
            use_cache=False,
            **options,
        )
    if not logps:
        return Pass(None, captured)
    return Pass(_pair_logps(output.logits, batch), captured)


def _pair_logps(logits_NKV: Tensor, batch: PairBatch) -> PairLogps:
    num_positions = batch.input_ids.shape[1]
    num_scored = logits_NKV.shape[1]
    length = batch.response_length
    response = batch.tokens.response
    start_N = response.int().argmax(1)
    offset_T = torch.arange(length, device=response.device)
    position_NT = (start_N[:, None] + offset_T).clamp(max=num_positions - 1)
    mask_NT = offset_T < response.sum(1, keepdim=True)
    token_NT = batch.input_ids.gather(1, position_NT)
    # The token at position t is predicted at t - 1; logits start at num_positions - num_scored.
    row_NT = torch.arange(len(start_N), device=response.device)[:, None].expand_as(position_NT)
    scored_NTV = logits_NKV[row_NT, position_NT - 1 - (num_positions - num_scored)]
    scored_NTV = scored_NTV.to(torch.promote_types(scored_NTV.dtype, torch.float32))
    logps_NT = scored_NTV.gather(-1, token_NT[..., None]).squeeze(-1) - scored_NTV.logsumexp(-1)
    logps_NT = logps_NT.masked_fill(~mask_NT, 0.0)
    pairs = batch.num_pairs
    return PairLogps(TokenLogps(logps_NT[:pairs], mask_NT[:pairs]), TokenLogps(logps_NT[pairs:], mask_NT[pairs:]))
