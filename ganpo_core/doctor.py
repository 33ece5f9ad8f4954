"""Does a model do what training relies on? Named checks on the user's own model and rows, one line each.

Another check is another function in `CHECKS`. Shape suffixes: S positions, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ganpo_core.anatomy import base_model, text_config
from ganpo_core.data import Packing, PairBatch, TokenPair
from ganpo_core.errors import TrainingError
from ganpo_core.forward import capture, layout_tolerance, packing_check
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import START_GAP, policy_pass, reference_pass, train_step
from ganpo_core.types import Layer

EXACT, ROUNDED = 1e-3, 0.1
"""Nats a token by which equal computations may differ, with float32 weights and with shorter ones."""
PACKED: tuple[Packing, ...] = ("packed", "shared")
PROBES = 3
"""Pairs on which layouts are compared."""
PADDING = 7
"""Positions of padding that the checks add."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    ok: bool
    said: str
    """With numbers."""
    advice: str = ""
    """What to do where it is not."""

    def line(self) -> str:
        """For the terminal."""
        return f"{'ok' if self.ok else 'FAILED':<7} {self.name:<16} {self.said}" + (
            "" if self.ok else f"; {self.advice}"
        )


@dataclass(frozen=True)
class Patient:
    """A run, and a pair of its data."""

    run: Run
    pair: TokenPair

    @property
    def model(self) -> Any:
        """The policy; a language model of transformers, perhaps with adapters."""
        return self.run.models.policy

    @property
    def batch(self) -> PairBatch:
        """The first micro-batch of the run."""
        return self.run.window(0)[0]

    @property
    def tolerance(self) -> float:
        """Nats a token."""
        types = {weight.dtype for weight in self.model.parameters() if weight.is_floating_point()}
        return EXACT if types <= {torch.float32, torch.float64} else ROUNDED

    @torch.no_grad()
    def response_logps(self, left: int = 0, right: int = 0) -> Tensor:
        """[T], of a response's tokens, in a row with masked garbage on either side."""
        tokens = [*self.pair.prompt, *(self.pair.chosen or self.pair.rejected)]
        garbage = tokens[-2:-1]
        row = [*garbage * left, *tokens, *garbage * right]
        mask = [0] * left + [1] * len(tokens) + [0] * right
        positions = [0] * left + list(range(len(tokens) + right))
        logits_SV = self.model(
            input_ids=self._row(row),
            attention_mask=self._row(mask),
            position_ids=self._row(positions),
            use_cache=False,
            **self._token_types(row, left + len(self.pair.prompt)),
        ).logits[0]
        start, end = left + len(self.pair.prompt), left + len(tokens)
        wanted = torch.tensor(row[start:end], device=logits_SV.device)
        logps_T: Tensor = logits_SV[start - 1 : end - 1].float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
        return logps_T

    def _token_types(self, row: list[int], start: int) -> dict[str, Tensor]:
        """What a model that sees is told of the tokens of a row whose response begins at `start`."""
        images = self.pair.images
        if images is None:
            return {}
        kinds = {
            "image": [int(token == images.image_token_id) for token in row],
            "response": [int(place >= start) for place in range(len(row))],
        }
        taken = signature(base_model(self.model).forward).parameters
        return {name: self._row(kinds[kind]) for name, kind in images.token_types.items() if name in taken}

    def _row(self, values: list[int]) -> Tensor:
        return torch.tensor([values], device=self.run.models.device)


def vocabulary(patient: Patient) -> Finding:
    """Tokenizer, embeddings and head know the same words."""
    tokenizer = patient.run.models.tokenizer
    embedded = base_model(patient.model).get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    head = base_model(patient.model).get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    largest = int(patient.batch.input_ids.max())
    ok = max(len(tokenizer), largest + 1) <= min(embedded, head) and tokenizer.pad_token_id < embedded
    said = f"{len(tokenizer)} tokens known, {embedded} embedded, {head} predicted, {largest} the largest of the data"
    return Finding("vocabulary", ok, said, "use the tokenizer that the model was trained with")


@torch.no_grad()
def last_layer(patient: Patient) -> Finding:
    """Layer -1 is what the head reads: the head, and the soft cap if there is one, give the model's own logits."""
    ids = patient.batch.input_ids[:1]
    with capture(patient.model, [Layer(-1)]) as captured:
        logits = patient.model(input_ids=ids, use_cache=False).logits
    again = base_model(patient.model).get_output_embeddings()(captured[Layer(-1)])  # type: ignore[operator]
    cap = getattr(text_config(base_model(patient.model)), "final_logit_softcapping", None)
    if cap:
        again = cap * torch.tanh(again / cap)
    gap = _largest(again, logits)
    capped = f", capped at {cap:g}," if cap else ""
    return Finding(
        "last layer",
        gap <= patient.tolerance,
        f"the head{capped} on layer -1 is within {gap:.2g} of the logits",
        "this architecture changes hidden states or logits elsewhere; read latents by module path",
    )


def right_padding(patient: Patient) -> Finding:
    """Masked garbage after a row, as in training batches, changes nothing."""
    advice = "the model reads what it should not: train with per_device_train_batch_size: 1, or report its architecture"
    return _unmoved(patient, "right padding", patient.response_logps(right=PADDING), advice)


def left_padding(patient: Patient) -> Finding:
    """Masked garbage before a row changes nothing, as in batches of generation."""
    advice = "training pads on the right and is not affected; generate and judge answers one at a time"
    return _unmoved(patient, "left padding", patient.response_logps(left=PADDING), advice)


@torch.no_grad()
def same_start(patient: Patient) -> Finding:
    """Policy and reference agree before the first update."""
    run, name = patient.run, "same start"
    policy, reference = policy_pass(run, patient.batch).logps, reference_pass(run, patient.batch).logps
    if policy is None or reference is None:
        return Finding(name, True, "nothing compares log-probabilities with the reference's")
    gap = max(
        _largest(policy.chosen.total, reference.chosen.total), _largest(policy.rejected.total, reference.rejected.total)
    )
    if run.config.model.reference is not None:
        return Finding(name, True, f"model.reference is another model: {gap:.3g} nats on a response")
    advice = "the model's passes are random (dropout, routing); set model.disable_dropout: true"
    return Finding(name, gap <= START_GAP, f"policy and reference are within {gap:.2g} nats on a response", advice)


def determinism(patient: Patient) -> Finding:
    """The same pass twice gives the same numbers."""
    gap = _largest(patient.response_logps(), patient.response_logps())
    advice = "set model.disable_dropout: true; losses and resumed runs are otherwise not reproducible"
    return Finding("determinism", gap == 0, f"two passes differ by {gap:.2g} nats a token", advice)


def one_step(patient: Patient) -> Finding:
    """A micro-batch trains: its loss and its gradient are finite, and the gradient is not 0."""
    run, metrics = patient.run, MetricSums(patient.run.models.device)
    try:
        train_step(run, [patient.batch], 0, metrics)
    except TrainingError as error:
        return Finding("one step", False, str(error), "nothing can be trained before that is mended")
    found = metrics.means(run.sum_over_processes)
    said = f"loss {found['loss']:.4g}, gradient norm {found['grad_norm']:.4g}"
    return Finding("one step", found["grad_norm"] > 0, said, "the objective does not reach the trained weights")


def layouts(patient: Patient) -> Finding:
    """Padded rows, packed rows and rows that share their prompts give the same log-probabilities and gradients."""
    run, name = patient.run, "layouts"
    if run.plan.packing == "padded":
        said = next((note for note in run.notes if note.startswith("training.packing:")), "the run file asks for padded rows")
        return Finding(name, True, said.removeprefix("training.packing: "))
    head = None if run.plan.head is None else replace(run.plan.head, dtype=None)
    pairs, pad = run.pairs[:PROBES], run.models.tokenizer.pad_token_id
    gaps = {packing: packing_check(patient.model, packing, head, pairs, pad) for packing in PACKED}
    said = "; ".join(f"{packing} and padded rows {gap}" for packing, gap in gaps.items())
    ok = all(gap.within(layout_tolerance(patient.model)) for gap in gaps.values())
    return Finding(name, ok, said, "set training.packing: padded, and report the architecture")


CHECKS: tuple[Callable[[Patient], Finding], ...] = (
    vocabulary,
    last_layer,
    right_padding,
    left_padding,
    determinism,
    layouts,
    same_start,
    one_step,
)
"""In order; the last one changes the weights in memory."""


def examine(run: Run) -> Iterator[Finding]:
    """The findings on a run, as they come."""
    longest = max(run.pairs[:16], key=lambda pair: pair.length)
    patient = Patient(run, longest)
    for check in CHECKS:
        yield check(patient)


def _unmoved(patient: Patient, name: str, padded_T: Tensor, advice: str) -> Finding:
    gap = _largest(patient.response_logps(), padded_T)
    return Finding(name, gap <= patient.tolerance, f"{gap:.2g} nats a token at most", advice)


def _largest(one: Tensor, other: Tensor) -> float:
    """The largest difference; infinite where either is not finite, so that nothing passes by being nan."""
    gap = (one.double() - other.double()).abs()
    return float(gap.max()) if bool(torch.isfinite(gap).all()) else float("inf")
