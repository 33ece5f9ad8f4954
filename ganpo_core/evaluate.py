"""Held-out pairs through the objective: the same numbers as in training, without a gradient."""

from __future__ import annotations

import torch

from ganpo_core.assemble import Run
from ganpo_core.metrics import MetricSums
from ganpo_core.step import note_pairs, pair_loss, policy_pass, reference_pass


@torch.no_grad()
def evaluate(run: Run) -> dict[str, float]:
    """Averages over all held-out pairs, each counted once, keys prefixed `eval_`; {} without held-out pairs."""
    if run.evaluation is None:
        return {}
    metrics = MetricSums(run.models.device)
    size, world = run.config.training.per_device_eval_batch_size, run.accelerator.num_processes
    count = len(run.evaluation)
    was_training = run.models.policy.training
    run.models.policy.eval()
    for start in range(0, count, size * world):
        own = start + run.accelerator.process_index * size
        # Every process runs every pass, or a sharded model would wait for ever; surplus pairs are not counted.
        indices = list(range(own, min(own + size, count)))
        batch = run.batch(run.evaluation, indices or [0])
        policy, reference = policy_pass(run, batch), reference_pass(run, batch)
        assert policy.logps is not None
        loss = pair_loss(run, policy.logps, reference.logps)
        note_pairs(metrics, loss, policy.logps, prefix="eval_", count=len(indices))
    run.models.policy.train(was_training)
    metrics.finish_step()
    return metrics.means(run.sum_over_processes)
