"""Held-out pairs through the objective: the same numbers as in training, without a gradient."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ganpo_core.batch_statistics import BatchStatistics
from ganpo_core.losses import Scored, objective_losses
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import note_losses, policy_pass, reference_pass, score


@torch.no_grad()
def evaluate(run: Run) -> dict[str, float]:
    """Averages over all held-out pairs, each counted once, keys prefixed `eval_`; {} without held-out pairs."""
    if run.evaluation is None:
        return {}
    metrics = MetricSums(run.models.device)
    size, world = run.config.training.per_device_eval_batch_size, run.accelerator.num_processes
    count = len(run.evaluation)
    statistics = BatchStatistics(run.config.objective)  # of its own: held-out pairs do not enter the running means
    statistics.load(run.statistics.state())
    was_training = run.models.policy.training
    run.models.policy.eval()
    for start in range(0, count, size * world):
        own = start + run.accelerator.process_index * size
        # Every process runs every pass, or a sharded model would wait for ever; surplus pairs are not counted.
        indices = list(range(own, min(own + size, count)))
        batch = run.batch(run.evaluation, indices or [0])
        reference = reference_pass(run, batch)
        policy = policy_pass(run, batch, against=reference.logits)
        assert policy.logps is not None
        scored = (batch, policy.logps, reference.logps)
        known = {**statistics.begin_step([batch], _mismatched(run, indices or [0]), run.sum_over_processes)}
        # Micro-batches of the last pass differ in size between processes: each sees its own.
        known |= statistics.of_batch(scored, lambda values: values)
        losses = objective_losses(run.config.objective, *scored, known, len(indices))
        note_losses(metrics, losses, prefix="eval_")
    run.models.policy.train(was_training)
    metrics.finish_step()
    return metrics.means(run.sum_over_processes)


def _mismatched(run: Run, indices: list[int]) -> Iterator[Scored]:
    """The same responses after other prompts, where the objective asks for them."""
    if run.evaluation is not None and run.statistics.needs_mismatched:
        partners = [(index + 1) % len(run.evaluation) for index in indices]
        yield score(run, run.mismatched(run.evaluation, indices, partners))
