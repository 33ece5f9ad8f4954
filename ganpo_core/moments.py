"""What an optimizer keeps beside each weight: to be saved, and put back where the optimizer reads it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ganpo_core.parallel import like


def moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """What is kept of a weight, by name; a step that is counted in Python is a whole number of no dimension."""
    return {key: torch.as_tensor(value) for key, value in optimizer.state.get(weight, {}).items()}


def set_moments(optimizer: torch.optim.Optimizer, weight: Tensor, held: Mapping[str, Tensor]) -> None:
    """Put `moments` of a weight back, from any device; of none, the optimizer starts afresh with it."""
    if not held:
        optimizer.state.pop(weight, None)
        return
    # As torch's own load_state_dict decides: a fused step counts where the weight lies, any other on the CPU.
    counts_beside = bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))

    def placed(key: str, value: Tensor) -> Tensor | int:
        if key == "step":
            if not value.is_floating_point():
                return int(value)
            return value.to(weight.device) if counts_beside else value
        # Codes of eight bits, and what they are decoded with, are not of the weight's kind.
        is_like = value.is_floating_point() and value.shape == weight.shape
        return like(value, weight) if is_like else value.to(weight.device)

    optimizer.state[weight] = {key: placed(key, value) for key, value in held.items()}
