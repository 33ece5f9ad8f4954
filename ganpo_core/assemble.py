"""RunConfig + registries -> every live object of a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from functools import partial

import torch
from accelerate import Accelerator

from ganpo_core.adversary import Regularizer, build_regularizers
from ganpo_core.anatomy import checkpoint_activations
from ganpo_core.batch_statistics import BatchStatistics
from ganpo_core.config import AdversaryPlan, DataConfig, RunConfig
from ganpo_core.data import (
    DataReport,
    PairDataset,
    PairOrder,
    TokenPair,
    collate,
    load_pairs,
)
from ganpo_core.demands import (
    check_declarations,
    check_objective_data,
    check_reference_cache,
    check_single_responses,
    check_token_budget,
    check_training,
    packing_obstacles,
)
from ganpo_core.forward import plan_passes, response_pass
from ganpo_core.image_latents import prepare_image_latents
from ganpo_core.latents import read_latents, read_sources
from ganpo_core.models import Models, context_length, load_models, load_processor, load_tokenizer
from ganpo_core.optimizers import make_optimizer
from ganpo_core.parallel import gather_parts, parallelize, sum_over_processes
from ganpo_core.randomness import seed_all
from ganpo_core.run import Run, count_steps
from ganpo_core.schedules import Schedule
from ganpo_core.types import Latents
from ganpo_core.watchdog import Watchdog
from ganpo_core.weights import bit_sums, frozen_weights


def assemble(
    config: RunConfig, accelerator: Accelerator, pairs: PairDataset | None = None, order: PairOrder | None = None
) -> Run:
    """Load and build everything, on `pairs` instead of the file's where they are given, and in their `order`.

    Raises GanpoError for what only the data or the models reveal.
    """
    training = config.training
    check_declarations(config.objective)
    check_reference_cache(config)
    # Read data before weights: mistakes in rows are cheaper to find.
    trusted = config.trust_remote_code
    processor = load_processor(config.model, trusted)
    tokenizer = load_tokenizer(config.model, trusted) if processor is None else processor.tokenizer
    data, data_notes = within_context(config)
    evaluation: PairDataset | None = None
    reports: list[DataReport] = []
    if pairs is None:
        pairs, report = load_pairs(data, tokenizer, processor)
        reports.append(report)
    if reports and (config.data.eval_path is not None or config.data.eval_split is not None):
        evaluation, evaluation_report = load_pairs(data, tokenizer, processor, evaluation=True)
        reports.append(evaluation_report)
    order = order or PairOrder.of(pairs, config.seed)
    max_steps = count_steps(training, order.pairs_per_epoch, accelerator.num_processes)
    for dataset in (pairs, evaluation):
        if dataset is not None:
            check_objective_data(config, dataset)
    statistics = BatchStatistics(config.objective)
    if statistics.depends_on_micro_batch and training.gradient_accumulation_steps > 1:
        data_notes.append(
            "objective: compares the pairs of a micro-batch with each other, so gradient_accumulation_steps changes it; "
            "for the loss of the whole step, raise per_device_train_batch_size instead"
        )
    if pairs.is_unpaired:
        check_single_responses(config)
    check_token_budget(config, statistics.depends_on_micro_batch)

    seed_all(config.seed)
    needs_reference = config.objective.needs_reference or bool(config.adversaries)
    models = load_models(config.model, tokenizer, accelerator.device, needs_reference, processor, trusted)
    if training.gradient_checkpointing:
        checkpoint_activations(models.policy)

    watchdog = Watchdog(
        config.output_dir,
        accelerator.process_index,
        accelerator.num_processes,
        training.watchdog_seconds,
        accelerator.wait_for_everyone,
    )

    prepare_image_latents(config, models, pairs)
    regularizers, notes = build_regularizers(
        config,
        lambda plan, count: _reference_latents(plan, models, pairs, count),
        models.dtype,
        models.device,
        max_steps,
        partial(sum_over_processes, accelerator, watchdog),
        lambda rows: torch.cat(gather_parts(accelerator, watchdog, rows)),
    )
    check_training(config, models)
    plan, plan_notes = plan_passes(
        models, training.packing, config.model.attention, probes(pairs), tokenizer.pad_token_id, packing_obstacles(config)
    )
    parallelize(models, accelerator, training.parallelism)
    optimizer = make_optimizer(training, list(models.trainable().values()), models.device)
    warmup = round(training.warmup_ratio * max_steps) if training.warmup_steps is None else training.warmup_steps
    schedule = Schedule(training.lr_scheduler_type, optimizer, warmup, max_steps)
    return Run(
        config=_with_settled_forms(config, regularizers),
        accelerator=accelerator,
        models=models,
        regularizers=regularizers,
        optimizer=optimizer,
        schedule=schedule,
        pairs=pairs,
        order=order,
        evaluation=evaluation,
        reports=tuple(reports),
        max_steps=max_steps,
        notes=(*config.notes, *data_notes, *notes, *plan_notes),
        statistics=statistics,
        plan=plan,
        reference_sums=bit_sums(frozen_weights(models).values()) if training.sync_reference is None else None,
        watchdog=watchdog,
    )


def _with_settled_forms(config: RunConfig, regularizers: list[Regularizer]) -> RunConfig:
    """The run as plain data with the forms that the critics allowed, so that it can be read again."""
    settled = {regularizer.plan.name: regularizer.plan.config.form for regularizer in regularizers}
    resolved = copy.deepcopy(dict(config.resolved))
    sections = resolved.get("adversaries", [resolved])
    assert isinstance(sections, list)
    for section in sections:
        form = settled.get(section.get("name", "latent"))
        if form is not None:
            section["adversary"]["form"] = form
    return dataclasses.replace(config, resolved=resolved)


def within_context(config: RunConfig) -> tuple[DataConfig, list[str]]:
    """The data section with `max_length` no longer than the model's context, and a note if that shortened it."""
    context = context_length(config.model, config.trust_remote_code)
    if context is None or config.data.max_length <= context:
        return config.data, []
    note = f"data.max_length: {config.data.max_length} is beyond the model's context; {context} is used"
    return dataclasses.replace(config.data, max_length=context), [note]


def probes(pairs: PairDataset, count: int = 3) -> list[TokenPair]:
    """A few pairs to try models on; of those with images, where there are some, all but one."""
    seen = pairs.with_images[: count - 1]
    return [pairs[index] for index in [*seen, *(i for i in range(count) if i not in seen)][: min(count, len(pairs))]]


def _reference_latents(plan: AdversaryPlan, models: Models, pairs: PairDataset, count: int) -> Iterator[Latents]:
    """An extractor's latents of the reference on the first pairs, one pair at a time."""
    sources = read_sources(plan.latents, models.policy)
    of_images = set(sources) & set(models.image_widths)
    for index in (pairs.with_images if of_images else range(len(pairs)))[:count]:
        batch = collate([pairs[index]], models.tokenizer.pad_token_id).to(models.device)
        with torch.random.fork_rng(devices=[]), models.as_reference() as reference:
            found = response_pass(reference, reference, batch, sources, logps=False)
        yield read_latents(plan.latents, found.captured, batch.tokens)
