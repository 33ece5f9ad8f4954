"""Two layouts compared on the user's own model: log-probabilities, and the gradient that flows back through every layer.

Shape suffixes: N rows, S positions of a row, R rows and L positions as the model is given them, T response tokens, H width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ganpo_core.anatomy import base_model
from ganpo_core.data import Packing, PairBatch, TokenPair, collate
from ganpo_core.forward.head import Head
from ganpo_core.forward.response import response_pass
from ganpo_core.types import PairLogps

PROBE_TOKENS = 24
"""Tokens of each part of the pairs that the comparison uses."""


class Gap(NamedTuple):
    """How far two layouts are apart, on the same pairs and model."""

    logps: float
    """The largest difference of a token's log-probability, in nats."""
    gradient: float
    """The norm of the difference of the gradients at the embedded tokens, over the norm of the gradient."""

    def within(self, tolerance: float) -> bool:
        """Whether both are at most `tolerance`; a gap that is not a number is not."""
        return self.logps <= tolerance and self.gradient <= tolerance

    def __str__(self) -> str:
        return f"{self.logps:.2g} nats apart, gradients {self.gradient:.2g}"


def packing_check(
    model: nn.Module, packing: Packing, head: Head | None, pairs: Sequence[TokenPair], pad_token_id: int
) -> Gap:
    """The gap between `packing` scored by `head` and padded rows scored by the model's own logits.

    The model must attend by segments already (`use_segment_attention`) for any packing but `padded`. Raises
    TrainingError where its attention does not go by them.
    """
    device = next(model.parameters()).device
    batch = collate([_shortened(pair) for pair in pairs], pad_token_id).to(device)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]), _evaluating(model):
        expected, expected_RLH = _scored(model, batch, None)
        found, found_RLH = _scored(model, replace(batch, packing=packing), head)
    # Two copies of a prompt token add up where it is there once.
    summed_RLH = torch.zeros_like(found_RLH, requires_grad=True)
    rows_NSH = replace(batch, packing=packing).layout.rows(summed_RLH)
    (summed_RLH,) = torch.autograd.grad(rows_NSH, summed_RLH, batch.layout.rows(expected_RLH))
    distance = (found_RLH - summed_RLH).norm() / summed_RLH.norm().clamp(min=1e-30)
    return Gap(float((found - expected).abs().max()), float(distance))


def _scored(model: nn.Module, batch: PairBatch, head: Head | None) -> tuple[Tensor, Tensor]:
    """[N, T] log-probabilities, and their gradient at the embedded tokens [R, L, H]."""
    embedded: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output if output.requires_grad else output.requires_grad_())
        return embedded[-1]

    layer: nn.Module = base_model(model).get_input_embeddings()  # type: ignore[operator]
    handle = layer.register_forward_hook(keep)
    try:
        found = response_pass(model, model, batch, head=head).logps
    finally:
        handle.remove()
    assert isinstance(found, PairLogps)
    logps = torch.cat([found.chosen.logps, found.rejected.logps])
    (gradient,) = torch.autograd.grad(logps.sum(), embedded[:1])
    return logps.detach(), gradient


def _shortened(pair: TokenPair) -> TokenPair:
    prompt = pair.prompt if pair.images is not None and pair.images.count else pair.prompt[-PROBE_TOKENS:]
    parts = (prompt, pair.chosen[:PROBE_TOKENS], pair.rejected[:PROBE_TOKENS])
    return replace(pair, prompt=parts[0], chosen=parts[1], rejected=parts[2])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
