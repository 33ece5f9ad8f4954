"""Log-probabilities of response tokens from one forward pass over chosen and rejected responses.

Shape suffixes: N rows of the batch (2B, chosen then rejected), S positions of a row, R rows and L positions as the model
is given them, K positions that have logits, M response tokens, T response tokens of a row, H width, V words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ganpo_core.anatomy import base_model, is_composite, output_layer
from ganpo_core.data import Layout, PairBatch
from ganpo_core.forward.attention import PackedPass
from ganpo_core.forward.capture import capture, head_input
from ganpo_core.forward.head import Head
from ganpo_core.forward.images import at_image_tokens, is_of_images
from ganpo_core.forward.statistics import TOKEN_STATISTICS, logps_and_statistics
from ganpo_core.types import PairLogps, Source, TokenLogps


@dataclass(frozen=True)
class Pass:
    """What one forward pass over a batch gave."""

    logps: PairLogps | None
    """None where nobody asked for log-probabilities."""
    layout: Layout | None = None
    """How the tokens lay in it; None where there was no pass."""
    states: Mapping[Source, Tensor] = field(default_factory=dict)
    """[R, L, H] each, as the model made them."""
    logits: Tensor | None = None
    """[M, V] at response positions, kept where the policy's pass compares distributions with them."""
    router_loss: Tensor | None = None
    """Scalar, how unevenly the experts of a mixture are used; None where nobody asked for it."""

    @cached_property
    def captured(self) -> Mapping[Source, Tensor]:
        """[N, S, H] each: `states` as the batch's rows, chosen first; 0 where a row has no token."""
        return {} if self.layout is None else {source: self.layout.rows(states) for source, states in self.states.items()}


@dataclass(frozen=True)
class Wanted:
    """What a pass gives beside log-probabilities and captured states."""

    side: Literal["policy", "reference"] = "policy"
    """Whose pass it is."""
    token_statistics: frozenset[str] = frozenset()
    """Of TOKEN_STATISTICS; each pass gives those that are its own."""
    token_ids: bool = False
    """Whether the response tokens themselves are given."""
    prompt: bool = False
    """Whether the prompts' own tokens are scored too."""
    reference_logits: Tensor | None = None
    """`Pass.logits` of the reference on the same batch."""
    router_loss: bool = False
    """Whether a mixture of experts reports how evenly it uses them."""

    @property
    def compares(self) -> bool:
        """True where the policy is compared with the reference's whole distributions."""
        return any(TOKEN_STATISTICS[name] == "both" for name in self.token_statistics)


def response_pass(
    run: Callable[..., Any],
    model: nn.Module,
    batch: PairBatch,
    sources: Sequence[Source] = (),
    logps: bool = True,
    wanted: Wanted = Wanted(),
    head: Head | None = None,
    widths: Mapping[Source, int] = MappingProxyType({}),
) -> Pass:
    """Run `run` (the model, or what wraps it) on a batch; capture `sources` in `model`; score the responses.

    With `head` the model makes the logits of a single position, and the log-probabilities come from what its head would
    have read; without, or where whole distributions are compared, from the model's own logits at response positions.
    Sides that hold no response are not run: their states are 0, and masked. So are those of images, whose width is
    looked up in `widths` where the batch has none.
    """
    layout = batch.layout
    takes_apart = head is not None and not (logps and wanted.compares)
    options = {} if takes_apart or (logps and wanted.prompt) else _positions(model, batch, logps)
    scored, targets = layout.scored, layout.targets
    if wanted.prompt:
        scored, targets = torch.cat([scored, layout.prompts.scored]), torch.cat([targets, layout.prompts.targets])
    if wanted.router_loss:
        options["output_router_logits"] = True
    packed = None
    if layout.valid is None:
        packed = PackedPass(layout)
        options |= packed.arguments()
    else:
        options["attention_mask"] = layout.valid.long()
    if not (is_composite(model) and packed is None):
        # A model that sees counts positions by itself in rows of one sequence: they may have several dimensions.
        options["position_ids"] = layout.position_ids
    options |= _images(model, batch)
    blind = batch.images is None or not batch.images.any
    with ExitStack() as hooks:
        states = hooks.enter_context(capture(model, sources, optional=tuple(widths) if blind else ()))
        read = hooks.enter_context(head_input(model)) if takes_apart else {}
        output = run(input_ids=layout.input_ids, use_cache=False, **options)
    if batch.images is not None:
        image_RL = layout.given(cast(Tensor, batch.tokens.image))
        for source in [source for source in sources if is_of_images(source, model)]:
            states[source] = at_image_tokens(source, states.get(source), image_RL, widths.get(source, 0))
    if packed is not None:
        packed.check_used(model)
    router_loss = output.aux_loss if wanted.router_loss else None
    if not logps:
        return Pass(None, layout, states, router_loss=router_loss)
    if head is not None and takes_apart:
        names = {name for name in wanted.token_statistics if TOKEN_STATISTICS[name] == wanted.side}
        linear = output_layer(model)
        assert isinstance(linear, nn.Linear)
        states_MH = read["states"].flatten(0, 1).index_select(0, scored)
        logps_M, statistics = head.logps(linear, states_MH, targets, names)
        return Pass(_pair_logps(logps_M, statistics, batch, wanted), layout, states, router_loss=router_loss)
    logits_MV = _at(scored, output.logits, layout)
    logps_M, statistics = logps_and_statistics(
        logits_MV, targets, wanted.token_statistics, wanted.side, wanted.reference_logits
    )
    kept = logits_MV if wanted.compares and wanted.side == "reference" else None
    return Pass(_pair_logps(logps_M, statistics, batch, wanted), layout, states, kept, router_loss)


def known_pass(batch: PairBatch, logps_NT: Tensor) -> Pass:
    """A pass that need not be made: log-probabilities of response tokens that are known already."""
    mask_NT = batch.layout.mask
    chosen, rejected = (
        TokenLogps(*side) for side in zip(logps_NT.chunk(2), mask_NT.chunk(2), strict=True)
    )
    return Pass(PairLogps(chosen, rejected))


def _images(model: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
    """What the model takes of a batch's images, and of its kinds of tokens."""
    if batch.images is None:
        return {}
    taken, dtype = inspect.signature(base_model(model).forward).parameters, next(model.parameters()).dtype
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in batch.image_arguments.items()
        if name in taken
    }


def _positions(model: nn.Module, batch: PairBatch, logps: bool) -> dict[str, Any]:
    """Which positions the model makes logits of: those that predict responses, as far as it can choose."""
    if "logits_to_keep" not in inspect.signature(base_model(model).forward).parameters:
        return {}
    layout = batch.layout
    if not logps:
        return {"logits_to_keep": 1}
    if len(layout.input_ids) == 1:
        return {"logits_to_keep": layout.scored}
    first = min(prompt for prompt, _, _ in batch.lengths) - 1
    return {"logits_to_keep": layout.input_ids.shape[1] - first}


def _at(scored: Tensor, logits_RKV: Tensor, layout: Layout) -> Tensor:
    (num_rows, num_positions), num_kept = layout.input_ids.shape, logits_RKV.shape[1]
    if num_rows == 1 and num_kept == len(scored) and num_kept < num_positions:
        return logits_RKV[0]  # chosen by index
    row_M, position_M = scored // num_positions, scored % num_positions
    return logits_RKV[row_M, position_M - (num_positions - num_kept)]


def _pair_logps(logps_M: Tensor, statistics: Mapping[str, Tensor], batch: PairBatch, wanted: Wanted) -> PairLogps:
    layout, pairs, prompt = batch.layout, batch.num_pairs, None
    if wanted.prompt:
        num_responses = len(layout.scored)
        prompt = TokenLogps(layout.prompts.placed(logps_M[num_responses:]), layout.prompts.mask)
        logps_M = logps_M[:num_responses]
        statistics = {name: values[:num_responses] for name, values in statistics.items()}
    given = {name: layout.responses(values) for name, values in {**statistics, "logps": logps_M}.items()}
    ids_NT = layout.responses(layout.targets) if wanted.token_ids else None

    def side(part: slice) -> TokenLogps:
        own = {name: given[name][part] for name in statistics}
        return TokenLogps(given["logps"][part], layout.mask[part], own, None if ids_NT is None else ids_NT[part])

    return PairLogps(side(slice(pairs)), side(slice(pairs, None)), prompt=prompt)
