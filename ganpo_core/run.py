"""What a run consists of while it is alive, and which pairs make up each of its steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from ganpo_core.adversary import Regularizer
from ganpo_core.batch_statistics import BatchStatistics
from ganpo_core.config import RunConfig, TrainingConfig
from ganpo_core.data import (
    DataReport,
    PairBatch,
    PairDataset,
    PairOrder,
    TokenPair,
    collate,
    group_by_tokens,
    split_groups,
)
from ganpo_core.forward import PassPlan
from ganpo_core.models import Models
from ganpo_core.parallel import gather_parts, sum_over_processes
from ganpo_core.schedules import Schedule
from ganpo_core.watchdog import Watchdog


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
    schedule: Schedule
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
