"""Log-probabilities of response tokens from one forward pass over chosen and rejected rows.

Shape suffixes: N rows (2B, chosen then rejected; of unpaired data the B that hold a response), S positions, K last
positions scored, T response tokens, V words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganpo_core.data import PairBatch
from ganpo_core.forward.capture import capture
from ganpo_core.forward.statistics import TOKEN_STATISTICS, statistics_of
from ganpo_core.models import base_model
from ganpo_core.types import PairLogps, Source, TokenLogps


@dataclass(frozen=True)
class Pass:
    """What one forward pass over a batch gave."""

    logps: PairLogps | None
    """None where nobody asked for log-probabilities."""
    captured: Mapping[Source, Tensor]
    """[N, S, H] each, chosen rows first."""
    logits: Tensor | None = None
    """[N, T, V] at response positions, kept where the policy's pass compares distributions with them."""
    router_loss: Tensor | None = None
    """Scalar, how unevenly the experts of a mixture are used; None where nobody asked for it."""


@dataclass(frozen=True)
class Wanted:
    """What a pass gives beside log-probabilities and captured states."""

    side: Literal["policy", "reference"] = "policy"
    """Whose pass it is."""
    token_statistics: frozenset[str] = frozenset()
    """Of TOKEN_STATISTICS; each pass gives those that are its own."""
    token_ids: bool = False
    """Whether the response tokens themselves are given."""
    reference_logits: Tensor | None = None
    """`Pass.logits` of the reference on the same batch."""
    router_loss: bool = False
    """Whether a mixture of experts reports how evenly it uses them."""

    @property
    def keeps_logits(self) -> bool:
        """True for the reference where the policy will be compared with its distributions."""
        return self.side == "reference" and any(TOKEN_STATISTICS[name] == "both" for name in self.token_statistics)


def response_pass(
    run: Callable[..., Any],
    model: nn.Module,
    batch: PairBatch,
    sources: Sequence[Source] = (),
    logps: bool = True,
    wanted: Wanted = Wanted(),
) -> Pass:
    """Run `run` (the model, or what wraps it) on a batch; capture `sources` in `model`; score the responses.

    Logits are computed from the first response position on; without `logps` for a single position. Rows of unpaired
    data that hold no response are not run: their states are 0, and masked.
    """
    keep = batch.input_ids.shape[1] - batch.first_response + 1 if logps else 1
    accepted = inspect.signature(base_model(model).forward).parameters
    options: dict[str, Any] = {"logits_to_keep": keep} if "logits_to_keep" in accepted else {}
    if wanted.router_loss:
        options["output_router_logits"] = True
    rows = batch.rows
    with capture(model, sources) as captured:
        output = run(
            input_ids=_taken(batch.input_ids, rows),
            attention_mask=_taken(batch.tokens.valid, rows).long(),
            position_ids=_taken(batch.position_ids, rows),
            use_cache=False,
            **options,
        )
    captured = {source: _placed(states, rows, batch) for source, states in captured.items()}
    router_loss = output.aux_loss if wanted.router_loss else None
    if not logps:
        return Pass(None, captured, router_loss=router_loss)
    pairs, logits_NTV = _pair_logps(output.logits, batch, wanted)
    return Pass(pairs, captured, logits_NTV if wanted.keeps_logits else None, router_loss)


def _taken(tensor: Tensor, rows: Tensor | None) -> Tensor:
    """The rows that hold a response."""
    return tensor if rows is None else tensor[rows]


def _placed(tensor: Tensor, rows: Tensor | None, batch: PairBatch) -> Tensor:
    """Those rows among all of the batch's, 0 elsewhere."""
    if rows is None:
        return tensor
    return tensor.new_zeros((len(batch.input_ids), *tensor.shape[1:])).index_copy(0, rows, tensor)


def _pair_logps(logits_NKV: Tensor, batch: PairBatch, wanted: Wanted) -> tuple[PairLogps, Tensor]:
    num_positions = batch.input_ids.shape[1]
    num_scored = logits_NKV.shape[1]
    length = batch.response_length
    rows = batch.rows
    response = _taken(batch.tokens.response, rows)
    start_N = response.int().argmax(1)
    offset_T = torch.arange(length, device=response.device)
    position_NT = (start_N[:, None] + offset_T).clamp(max=num_positions - 1)
    mask_NT = offset_T < response.sum(1, keepdim=True)
    token_NT = _taken(batch.input_ids, rows).gather(1, position_NT)
    # The token at position t is predicted at t - 1; logits start at num_positions - num_scored.
    row_NT = torch.arange(len(start_N), device=response.device)[:, None].expand_as(position_NT)
    logits_NTV = logits_NKV[row_NT, position_NT - 1 - (num_positions - num_scored)]
    scored_NTV = logits_NTV.to(torch.promote_types(logits_NTV.dtype, torch.float32))
    logps_NT = scored_NTV.gather(-1, token_NT[..., None]).squeeze(-1) - scored_NTV.logsumexp(-1)
    statistics = statistics_of(wanted.token_statistics, wanted.side, logits_NTV, wanted.reference_logits)
    statistics = {name: values.masked_fill(~mask_NT, 0.0) for name, values in statistics.items()}
    given = {**statistics, "logps": logps_NT.masked_fill(~mask_NT, 0.0), "mask": mask_NT}
    if wanted.token_ids:
        given["token_ids"] = token_NT
    given = {name: _placed(values, rows, batch) for name, values in given.items()}
    pairs = batch.num_pairs

    def side(part: slice) -> TokenLogps:
        ids = given["token_ids"][part] if wanted.token_ids else None
        own = {name: given[name][part] for name in statistics}
        return TokenLogps(given["logps"][part], given["mask"][part], own, ids)

    return PairLogps(side(slice(pairs)), side(slice(pairs, None))), logits_NTV
