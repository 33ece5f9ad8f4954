"""A run file becomes a statement of its memory and its work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ganpo_core.anatomy import base_model
from ganpo_core.assemble import within_context
from ganpo_core.config import AdversaryPlan, ModelConfig, RunConfig
from ganpo_core.data import Packing, load_pairs
from ganpo_core.forward.plan import packing_obstacles
from ganpo_core.latents import read_latents, read_sources
from ganpo_core.models import DTYPES, load_processor, load_skeleton, load_tokenizer
from ganpo_core.plan.critics import CriticFlops, CriticMemory, plan_critic
from ganpo_core.plan.lengths import Lengths
from ganpo_core.plan.memory import Memory, plan_memory
from ganpo_core.plan.shape import ModelShape, model_shape
from ganpo_core.plan.sight import Views, plan_sight, planned_model
from ganpo_core.plan.work import Work, plan_work
from ganpo_core.types import ImageFeatures, Module, Source, TokenMap


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    shape: ModelShape
    lengths: Lengths
    layout: Packing
    processes: int
    pairs_per_step: int
    """Over all micro-batches and processes."""
    memory: Memory
    """Of one process."""
    work: Work
    """For each pair."""

    def as_json(self) -> dict[str, object]:
        """Everything as plain data; bytes and FLOPs as numbers."""
        prompt, chosen, rejected = self.lengths.mean
        return {
            "model": dataclasses.asdict(self.shape),
            "lengths": {
                "origin": self.lengths.origin,
                "mean": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
                "median": dict(zip(("prompt", "chosen", "rejected"), self.lengths.median, strict=True)),
                "layout": self.layout,
            },
            "processes": self.processes,
            "pairs_per_step": self.pairs_per_step,
            "memory": {
                "resident": dict(self.memory.resident),
                "passing": dict(self.memory.passing),
                "total": self.memory.total,
            },
            "flops": {
                "per_pair": dict(self.work.parts),
                "pair": self.work.total,
                "step": self.work.total * self.pairs_per_step,
                "useful_pair": self.work.useful,
            },
            "overhead": {
                "base": self.work.overhead,
                "base_with_reference": self.work.total / self.work.base_with_reference,
                "critics": self.work.overhead_of_critics,
            },
        }


def plan_run(
    config: RunConfig, lengths: Lengths | None = None, processes: int = 1, layout: Packing | None = None
) -> Plan:
    """State what a run needs before a weight is loaded; `lengths` default to those of its data, `layout` to its own.

    Images are counted where the data are read: with `lengths` that are given, a run is taken for one of text.
    """
    needs_processor = lengths is None or config.model.freeze  # otherwise the configuration is enough
    processor = load_processor(config.model, config.trust_remote_code) if needs_processor else None
    views = Views()
    if lengths is None:
        lengths, views = measured(config, processor)
    model = planned_model(config.model, processor)
    layout = layout or layout_of(config, model, views)
    sight = plan_sight(config.model, model, views)
    shape = model_shape(config.model, lengths.row, model)
    critics: dict[str, tuple[CriticFlops, CriticMemory]] = {
        plan.name: plan_critic(
            plan, latent_dim(plan, config.model, shape.width), DTYPES[config.model.dtype], lengths.row
        )
        for plan in config.adversaries
        if plan.discriminator is not None
    }
    flops = {name: found[0] for name, found in critics.items()}
    held = {name: found[1] for name, found in critics.items()}
    training = config.training
    return Plan(
        shape=shape,
        lengths=lengths,
        layout=layout,
        processes=processes,
        pairs_per_step=training.per_device_train_batch_size * training.gradient_accumulation_steps * processes,
        memory=plan_memory(config, shape, lengths, layout, held, processes, sight),
        work=plan_work(config, shape, lengths, layout, flops, sight),
    )


def measured(config: RunConfig, processor: Any) -> tuple[Lengths, Views]:
    """The lengths of the run's own pairs, and some of their images."""
    data, _ = within_context(config)
    tokenizer = load_tokenizer(config.model, config.trust_remote_code) if processor is None else processor.tokenizer
    pairs, _ = load_pairs(data, tokenizer, processor)
    return Lengths(pairs.lengths.astype("int64"), f"{len(pairs)} pairs of the data"), Views.of(pairs)


def layout_of(config: RunConfig, model: nn.Module, views: Views) -> Packing:
    """How the run's batches are laid out, if its model computes the same in what `auto` tries first."""
    packing = config.training.packing
    if packing != "auto":
        return packing
    types = next((prompt.token_types for prompt in views.prompts), {})
    known = next(packing_obstacles(model, config.model.attention, torch.device("cuda"), types), None)
    return "shared" if known is None else "padded"


def latent_dim(plan: AdversaryPlan, model: ModelConfig, width: int) -> int:
    """The width of an extractor's latents, from states that have shapes and no values."""
    skeleton: nn.Module = load_skeleton(model)
    captured = {}
    for source in read_sources(plan.latents, skeleton):
        captured[source] = torch.zeros(2, 4, _width(base_model(skeleton), source, width))
    on = torch.ones(2, 4, dtype=torch.bool)
    latents = read_latents(plan.latents, captured, TokenMap(valid=on, prompt=on, response=on, image=on))
    return int(latents.states.shape[-1])


def _width(model: Any, source: Source, width: int) -> int:
    """What a source's states are likely to be wide: as a submodule or the tower says, or as the hidden states are."""
    if isinstance(source, Module):
        return int(getattr(dict(model.named_modules()).get(source.path), "out_features", width))
    if isinstance(source, ImageFeatures) and source.part == "tower":
        return int(getattr(model.get_encoder(modality="image").config, "hidden_size", width))
    return width
