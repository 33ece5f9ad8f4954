"""Learning-rate schedules, as transformers defines them."""

from __future__ import annotations

from typing import Any

import torch


def make_scheduler(kind: str, optimizer: torch.optim.Optimizer, warmup_steps: int, max_steps: int) -> Any:
    """The schedule that `transformers.TrainingArguments.lr_scheduler_type` calls `kind`; `constant` has no warm-up."""
    from transformers import get_scheduler

    return get_scheduler(kind, optimizer, num_warmup_steps=warmup_steps, num_training_steps=max_steps)
