"""Bytes that one process holds, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ganpo_core.config import RunConfig
from ganpo_core.data import Packing
from ganpo_core.forward.tiles import LOGITS_HELD
from ganpo_core.models import DTYPES
from ganpo_core.plan.critics import CriticMemory, Passes
from ganpo_core.plan.lengths import Lengths
from ganpo_core.plan.shape import ModelShape
from ganpo_core.plan.sight import Sight


@dataclass(frozen=True)
class Memory:
    """What stays from step to step, and what a micro-batch adds while it runs."""

    resident: Mapping[str, float]
    passing: Mapping[str, float]

    @property
    def total(self) -> float:
        """At the fullest moment."""
        return sum(self.resident.values()) + sum(self.passing.values())


def plan_memory(
    config: RunConfig,
    shape: ModelShape,
    lengths: Lengths,
    layout: Packing,
    critics: Mapping[str, CriticMemory],
    processes: int,
    sight: Sight = Sight(),
) -> Memory:
    """Of each process; `fsdp2` divides policy and reference among them, `ddp` does not."""
    training = config.training
    sharded = training.parallelism == "fsdp2"
    parts = processes if sharded else 1
    half = DTYPES[config.model.dtype].itemsize if config.model.dtype != "float32" else 4
    moments = 2 if training.optim == "adamw_bnb_8bit" else 2 * (shape.trainable_bytes // max(shape.trainable, 1))
    resident: dict[str, float] = {
        "policy weights": shape.weight_bytes / parts,
        "gradients": shape.trainable_bytes / parts,
        "optimizer state": shape.optimizer_elements * moments / parts,
        "reference": _reference(config, shape) / parts,
    }
    for plan in config.adversaries:
        if plan.name in critics:
            held = critics[plan.name]
            resident[f"critics of '{plan.name}'"] = 2 * (held.weights + 3 * held.trained)
    if processes > 1 and not sharded:
        resident["gradient buckets of ddp"] = float(shape.trainable_bytes)
    positions = lengths.largest(layout, training.per_device_train_batch_size)
    passing: dict[str, float] = {
        "activations": _activations(config, shape, lengths, layout),
        "logits held at a time": 2 * 4.0 * min(LOGITS_HELD["cuda"], positions * shape.vocabulary),
    }
    if sight.saved:
        kept = sight.saved_in_checkpoints if training.gradient_checkpointing else sight.saved
        passing["activations of what sees"] = kept * sight.times(layout) * training.per_device_train_batch_size
    if sharded:
        passing["gathered weights"] = 2.0 * shape.largest_unit * half
    elif shape.cast_bytes:
        passing["weights cast for the computation"] = float(shape.cast_bytes)
    for plan in config.adversaries:
        if plan.name in critics:
            rows = Passes.of(plan).scored / 2 * _sequence_tokens(config, lengths)
            passing[f"activations of the critics of '{plan.name}'"] = rows * critics[plan.name].saved_per_token
    return Memory(resident, passing)


def _reference(config: RunConfig, shape: ModelShape) -> float:
    """Nothing with adapters, which are switched off, and nothing where nobody reads it."""
    is_read = config.objective.needs_reference or config.adversaries
    if config.model.lora is not None or config.training.reference_cache is not None or not is_read:
        return 0.0
    return shape.weight_bytes


def _activations(config: RunConfig, shape: ModelShape, lengths: Lengths, layout: Packing) -> float:
    positions = lengths.largest(layout, config.training.per_device_train_batch_size)
    if not config.training.gradient_checkpointing:
        return positions * shape.saved_per_token
    # The hidden states between layers, and the activations of the one layer that is being recomputed.
    wide = 4 if config.model.lora is None else DTYPES[config.model.dtype].itemsize
    return positions * (shape.num_layers * shape.width * wide + shape.saved_per_token / shape.num_layers)


def _sequence_tokens(config: RunConfig, lengths: Lengths) -> float:
    """Tokens of both sequences of the pairs of the largest micro-batch."""
    return lengths.largest("packed", config.training.per_device_train_batch_size)
