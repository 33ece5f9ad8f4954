"""What moves the policy's weights."""

from __future__ import annotations

from typing import Any

import torch

from ganpo_core.config import TrainingConfig
from ganpo_core.errors import ConfigError


def make_optimizer(
    training: TrainingConfig, weights: list[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """The policy's optimizer. Raises ConfigError for one that needs a device or a package that is not here."""
    options: dict[str, Any] = {
        "lr": training.learning_rate,
        "betas": (training.adam_beta1, training.adam_beta2),
        "eps": training.adam_epsilon,
        "weight_decay": training.weight_decay,
    }
    if training.optim == "adamw_bnb_8bit":
        if device.type != "cuda":
            raise ConfigError("training.optim: adamw_bnb_8bit needs a CUDA device")
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ConfigError("training.optim: install bitsandbytes with `pip install 'ganpo[quantization]'`") from error
        eight_bit: torch.optim.Optimizer = AdamW8bit(weights, **options)
        return eight_bit
    return torch.optim.AdamW(weights, fused=training.optim == "adamw_torch_fused", **options)
