"""What an optimizer keeps beside each weight: to be saved, and put back where the optimizer reads it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ganpo_core.parallel import like


def moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """What is kept of a weight, by name."""
    return dict(optimizer.state.get(weight, {}))


def set_moments(optimizer: torch.optim.Optimizer, weight: Tensor, held: Mapping[str, Tensor]) -> None:
    """Put `moments` of a weight back, from any device; of none, the optimizer starts afresh with it."""
    if not held:
        optimizer.state.pop(weight, None)
        return
    # As torch's own load_state_dict decides: a fused step counts where the weight lies, any other on the CPU.
    counts_beside = bool(optimizer.defaults.get("fused") or optimizer.defaults.get("capturable"))

    def placed(key: str, value: Tensor) -> Tensor:
        if key == "step":
            return value.to(weight.device) if counts_beside else value
        return like(value, weight)

    optimizer.state[weight] = {key: placed(key, value) for key, value in held.items()}
