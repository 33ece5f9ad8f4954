"""Learning-rate schedules, as transformers defines them."""

from __future__ import annotations

import torch


class Schedule:
    """An optimizer's learning rate as a function of the update that comes next alone: there is nothing to save."""

    def __init__(self, kind: str, optimizer: torch.optim.Optimizer, warmup: int, length: int) -> None:
        """The schedule that `transformers.TrainingArguments.lr_scheduler_type` calls `kind`; `constant` has no warm-up.

        `warmup` and `length` are in updates.
        """
        from transformers import get_scheduler

        self._optimizer = optimizer
        self._scheduler = get_scheduler(kind, optimizer, num_warmup_steps=warmup, num_training_steps=length)

    def set_rate(self, update: float) -> None:
        """Give the optimizer the rate of an update counted from 0, or between two."""
        bases, shares = self._scheduler.base_lrs, self._scheduler.lr_lambdas
        for group, base, share in zip(self._optimizer.param_groups, bases, shares, strict=True):
            group["lr"] = base * share(update)
