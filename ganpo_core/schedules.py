"""Learning-rate schedules, as transformers defines them."""

from __future__ import annotations

from typing import Any

import torch


def make_scheduler(kind: str, optimizer: torch.optim.Optimizer, warmup_steps: int, max_steps: int) -> Any:
    """The schedule that `transformers.TrainingArguments.lr_scheduler_type` calls `kind`; `constant` has no warm-up."""
    from transformers import get_scheduler

    return get_scheduler(kind, optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_steps)


def rescale(scheduler: Any, optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Count the steps behind a schedule of `make_scheduler` in others: `factor` is their size by that of the others.

    The schedule goes on from there, between two steps where it comes to that.
    """
    scheduler.last_epoch *= factor
    rates = [base * at(scheduler.last_epoch) for base, at in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler._last_lr = rates
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
