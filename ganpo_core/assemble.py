"""RunConfig + registries -> every live object of a run."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from ganpo_core.adversary import Regularizer, build_regularizers
from ganpo_core.anatomy import checkpoint_activations
from ganpo_core.batch_statistics import BatchStatistics
from ganpo_core.config import AdversaryPlan, DataConfig, RunConfig, TrainingConfig
from ganpo_core.data import (
    DataReport,
    PairBatch,
    PairDataset,
    PairOrder,
    TokenPair,
    collate,
    group_by_tokens,
    load_pairs,
    split_groups,
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
from ganpo_core.forward import PassPlan, plan_passes, response_pass
from ganpo_core.image_latents import prepare_image_latents
from ganpo_core.latents import read_latents, read_sources
from ganpo_core.models import Models, context_length, load_models, load_processor, load_tokenizer
from ganpo_core.optimizers import make_optimizer
from ganpo_core.parallel import gather_parts, parallelize, sum_over_processes
from ganpo_core.randomness import seed_all
from ganpo_core.schedules import make_scheduler
from ganpo_core.types import Latents
from ganpo_core.watchdog import Watchdog
from ganpo_core.weights import bit_sums, frozen_weights


class KnownReference(Protocol):
    """What knows the reference's log-probabilities."""

    fingerprint: str | None
    """Of the reference's weights."""
    tolerance: float
    """Nats by which a token's value may differ from what the reference says of it now."""

    def add_to(self, batch: PairBatch, pairs: Sequence[TokenPair]) -> PairBatch:
        """The batch with `reference` filled in."""


@dataclass
class Run:
    """What a run consists of while it is alive."""

    config: RunConfig
    accelerator: Accelerator
    models: Models
    regularizers: list[Regularizer]
    optimizer: torch.optim.Optimizer
    scheduler: Any
    pairs: PairDataset
    order: PairOrder
    evaluation: PairDataset | None
    reports: tuple[DataReport, ...]
    max_steps: int
    notes: tuple[str, ...]
    statistics: BatchStatistics
    plan: PassPlan
    watchdog: Watchdog
    reference_sums: Tensor | None = None
    """The bits of what makes the reference, added up at the start; None where nothing is frozen or it may move."""
    reference_cache: KnownReference | None = None
    """What is known of the reference without running it, where the run file names a place to keep it."""
    first_pair: int = 0
    """Place in the stream of pairs where step 0 would begin: not 0 after steps of another size."""

    @property
    def needs_reference(self) -> bool:
        """False where neither the objective nor an adversary reads the reference."""
        return self.config.objective.needs_reference or bool(self.regularizers)

    @property
    def pairs_per_step(self) -> int:
        """Over all micro-batches and processes."""
        return pairs_per_step(self.config.training, self.accelerator.num_processes)

    def place(self, step: int) -> int:
        """How many pairs of the stream lie before a step counted from 0."""
        return self.first_pair + step * self.pairs_per_step

    def schedule_step(self, step: int) -> float:
        """A step as schedules count it: where epochs are the measure, as if all before had held as many pairs as it does."""
        return step if self.config.training.max_steps is not None else step + self.first_pair / self.pairs_per_step

    def window(self, step: int) -> list[PairBatch]:
        """This process's micro-batches of an optimizer step counted from 0: a pure function of the run file."""
        indices = self.order.indices(self.place(step), self.pairs_per_step)
        return [self.batch(self.pairs, [indices[place] for place in group]) for group in self._micro_batches(indices)]

    def _micro_batches(self, indices: Sequence[int]) -> list[list[int]]:
        """Places in a step's pairs, by micro-batch of this process."""
        training, world = self.config.training, self.accelerator.num_processes
        size, budget = training.per_device_train_batch_size, training.max_tokens_per_batch
        every = [
            [
                list(range(start, start + size))
                for start in range(process * size, self.pairs_per_step, world * size)
            ]
            for process in range(world)
        ]
        if budget is None:
            return every[self.accelerator.process_index]
        # Every process groups the pairs of all: collectives inside of a pass need equally many passes everywhere.
        places = [[place for group in groups for place in group] for groups in every]
        lengths = [[self._lengths(indices[place]) for place in own] for own in places]
        packing = self.plan.packing
        grouped = [group_by_tokens(own, packing, budget) for own in lengths]
        own = self.accelerator.process_index
        groups = split_groups(grouped[own], lengths[own], packing, max(map(len, grouped)))
        return [[places[own][index] for index in group] for group in groups]

    def _lengths(self, index: int) -> tuple[int, int, int]:
        prompt, chosen, rejected = self.pairs.lengths[index].tolist()
        return (prompt, chosen, rejected) if chosen and rejected else (prompt, chosen or rejected, 0)

    def batch(self, pairs: PairDataset, indices: list[int]) -> PairBatch:
        """Pairs as a batch on the device."""
        chosen = [pairs[index] for index in indices]
        batch = self.collated(chosen)
        return batch if self.reference_cache is None else self.reference_cache.add_to(batch, chosen)

    def mismatched_window(self, step: int) -> list[PairBatch]:
        """The step's micro-batches once more, each prompt with the responses of the next pair of the stream."""
        indices = self.order.indices(self.place(step), self.pairs_per_step + 1)
        return [
            self.mismatched(self.pairs, [indices[place] for place in group], [indices[place + 1] for place in group])
            for group in self._micro_batches(indices)
        ]

    def mismatched(self, pairs: PairDataset, prompts: list[int], responses: list[int]) -> PairBatch:
        """A batch of the prompts of some pairs with the responses of others, cut to the longest row of the data."""
        mixed = []
        for asked, answered in zip(prompts, responses, strict=True):
            prompt, pair = pairs[asked].prompt, pairs[answered]
            room = pairs.longest - len(prompt)
            pair = dataclasses.replace(pair, prompt=prompt, images=pairs[asked].images)
            mixed.append(dataclasses.replace(pair, chosen=pair.chosen[:room], rejected=pair.rejected[:room]))
        return self.collated(mixed)

    def collated(self, pairs: Sequence[TokenPair]) -> PairBatch:
        """Any pairs as a batch on the device."""
        return collate(pairs, self.models.tokenizer.pad_token_id, self.plan.packing).to(self.models.device)

    def gather_own_first(self, rows: Tensor) -> Tensor:
        """Rows of every process, any number of each, joined, this process's first."""
        parts, own = gather_parts(self.accelerator, self.watchdog, rows), self.accelerator.process_index
        return torch.cat([*parts[own:], *parts[:own]])

    def sum_over_processes(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes."""
        return sum_over_processes(self.accelerator, self.watchdog, tensor)


def pairs_per_step(training: TrainingConfig, num_processes: int) -> int:
    """The pairs of one optimizer step."""
    return training.per_device_train_batch_size * training.gradient_accumulation_steps * num_processes


def count_steps(
    training: TrainingConfig, pairs_per_epoch: int, num_processes: int, step: int = 0, pairs_seen: int = 0
) -> int:
    """`max_steps`, or the steps that `num_train_epochs` take; the last step borrows from the next epoch.

    The first `step` of them held the first `pairs_seen` pairs of the stream, whatever a step holds now.
    """
    if training.max_steps is not None:
        return training.max_steps
    left = math.ceil(training.num_train_epochs * pairs_per_epoch) - pairs_seen
    return max(1, step + math.ceil(max(0, left) / pairs_per_step(training, num_processes)))


def assemble(config: RunConfig, accelerator: Accelerator, pairs: PairDataset | None = None) -> Run:
    """Load and build everything, on `pairs` instead of the file's where they are given.

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
    order = PairOrder.of(pairs, config.seed)
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
    scheduler = make_scheduler(training.lr_scheduler_type, optimizer, warmup, max_steps)
    return Run(
        config=_with_settled_forms(config, regularizers),
        accelerator=accelerator,
        models=models,
        regularizers=regularizers,
        optimizer=optimizer,
        scheduler=scheduler,
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
