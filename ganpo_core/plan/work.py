"""FLOPs of an optimizer step, 2 per multiply-add."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganpo_core.config import RunConfig
from ganpo_core.data import Packing
from ganpo_core.plan.critics import CriticFlops, Passes
from ganpo_core.plan.lengths import Lengths
from ganpo_core.plan.shape import ModelShape
from ganpo_core.plan.sight import Sight

AHEAD = "pass ahead of the policy's"


@dataclass(frozen=True)
class Work:
    """FLOPs for each pair, by part."""

    parts: Mapping[str, float]
    base: float
    """Of the same run without adversaries: its objective, and the reference if the objective reads it."""
    base_with_reference: float
    """Of that run with a forward pass of the reference, which an adversary needs even where the objective does not."""
    critics: float

    @property
    def total(self) -> float:
        """Of everything."""
        return sum(self.parts.values())

    @property
    def useful(self) -> float:
        """Without what checkpointing computes a second time: what a utilization is measured by."""
        return self.total - self.parts.get("recomputed activations", 0.0) - self.parts.get("recomputed head", 0.0)

    @property
    def overhead(self) -> float:
        """The run as a multiple of the run without its adversaries."""
        return self.total / self.base

    @property
    def overhead_of_critics(self) -> float:
        """Of the critics alone, beside a run without adversaries that passes the reference too."""
        return 1 + self.critics / self.base_with_reference


def plan_work(
    config: RunConfig,
    shape: ModelShape,
    lengths: Lengths,
    layout: Packing,
    critics: Mapping[str, CriticFlops],
    sight: Sight = Sight(),
) -> Work:
    """Count the step's passes; the optimizers' own arithmetic, norms and softmaxes are left out."""
    training, pairs = config.training, config.training.per_device_train_batch_size
    positions = lengths.tokens(layout, pairs)
    attention = 4 * shape.attention_width * shape.num_layers * lengths.attended(layout, pairs)
    body = 2 * shape.body * positions + attention
    to_weights = 2 * shape.body_trainable * positions
    head = 2 * shape.head * lengths.responses
    parts = {
        "policy forward": body,
        "policy backward": body + attention + to_weights,
        "policy head": 3 * head if shape.head_trainable else 2 * head,
    }
    seen, trained_sight = sight.times(layout) * sight.forward, sight.times(layout) * sight.backward
    if seen:
        parts |= {"policy images forward": seen, "policy images backward": trained_sight}
    if training.gradient_checkpointing:
        parts["recomputed activations"] = body + (seen if trained_sight else 0.0)
    if shape.head_trainable:  # a frozen head's gradient is known in its forward pass
        parts["recomputed head"] = head
    reads = config.objective.needs_reference
    if reads:
        parts |= {"reference forward": body + seen, "reference head": head}
    base = sum(parts.values())
    if config.adversaries and not reads:
        parts["reference forward"] = body + seen
    base_with_reference = sum(parts.values())
    of_critics = 0.0
    for plan in config.adversaries:
        passes = Passes.of(plan, training.gradient_accumulation_steps)
        if passes.looks_ahead:
            parts[AHEAD] = 2 * (body + seen)
        if plan.name in critics:
            found = critics[plan.name].per_pair_token(passes) * lengths.sequences
            parts[f"critics of '{plan.name}'"] = found
            of_critics += found
    return Work(parts, base, base_with_reference, of_critics)
