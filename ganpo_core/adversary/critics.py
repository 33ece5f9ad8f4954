"""A game's two critics with their optimizer and schedule: trained, saved and restored together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganpo_core.adversary.critic import Critic
from ganpo_core.adversary.regularizer import SIDES, Reduce
from ganpo_core.asking import ask, method_name
from ganpo_core.components import Divergence
from ganpo_core.errors import TrainingError


class Critics:
    """The critic of the chosen and that of the rejected responses."""

    def __init__(
        self,
        pair: Sequence[Critic],
        optimizer: torch.optim.Optimizer | None,
        scheduler: Any,
        max_grad_norm: float | None,
        reduce: Reduce,
    ) -> None:
        """`optimizer` is None where nothing is trained."""
        self.pair = tuple(pair)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self._max_grad_norm = max_grad_norm
        self._reduce = reduce

    def __iter__(self) -> Iterator[Critic]:
        return iter(self.pair)

    def __getitem__(self, side: int) -> Critic:
        return self.pair[side]

    def named(self) -> dict[str, Critic]:
        """By side."""
        return dict(zip(SIDES, self.pair, strict=True))

    def set_dropout(self, on: bool) -> None:
        """Of both."""
        for critic in self.pair:
            critic.set_dropout(on)

    def accumulate(self, side: int, loss: Tensor, retain_graph: bool) -> None:
        """Add a loss's gradient to that of one critic's weights."""
        weights = [weight for weight in self.pair[side].parameters() if weight.requires_grad]
        if not weights:
            return
        gradients = torch.autograd.grad(loss, weights, retain_graph=retain_graph, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad + gradient

    def step(self, prefix: str, divergence: Divergence) -> None:
        """Update both from the gradients of all processes. Raises TrainingError, changing nothing, if one is not finite."""
        weights = [weight for critic in self.pair for weight in critic.parameters() if weight.grad is not None]
        if not weights or self.optimizer is None:
            return
        flat = self._reduce(torch.cat([weight.grad.flatten() for weight in weights]))  # type: ignore[union-attr]
        if not math.isfinite(float(flat.square().sum())):
            raise TrainingError(
                f"{prefix}: the gradient of a critic is not finite ({method_name(divergence, 'critic_loss')}); neither it "
                "nor the policy was updated. Lower adversary.learning_rate, or check the latents with `norm: rms`"
            )
        start = 0
        for weight in weights:
            weight.grad = flat[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
        if self._max_grad_norm is not None:
            for critic in self.pair:
                nn.utils.clip_grad_norm_(critic.parameters(), self._max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.drop_gradients()
        with torch.no_grad():
            for critic in self.pair:
                critic.step_spectral_norms()
                ask(divergence, "project", critic)

    def drop_gradients(self) -> None:
        """Forget what was accumulated."""
        for critic in self.pair:
            critic.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of both critics, and their optimizer's moments."""
        found: dict[str, Tensor] = {}
        for side, critic in self.named().items():
            found |= {f"{side}.{name}": tensor for name, tensor in critic.state_dict().items()}
            for name, weight in critic.named_parameters():
                moments = self.optimizer.state.get(weight, {}) if self.optimizer is not None else {}
                found |= {f"optimizer.{side}.{name}.{key}": value for key, value in moments.items()}
        return found

    def state(self) -> dict[str, Any]:
        """Where the schedule stands."""
        if self.scheduler is None:
            return {}
        # The functions of a schedule are made again from the run file.
        state = self.scheduler.state_dict()
        return {key: state[key] for key in ("last_epoch", "_step_count", "_last_lr") if key in state}

    def load(self, tensors: Mapping[str, Tensor], schedule: Mapping[str, Any]) -> None:
        """Restore `tensors` and `state`."""
        for side, critic in self.named().items():
            critic.load_state_dict(_under(f"{side}.", tensors))
            if self.optimizer is None:
                continue
            for name, weight in critic.named_parameters():
                moments = _under(f"optimizer.{side}.{name}.", tensors)
                if moments:
                    self.optimizer.state[weight] = {
                        key: value if key == "step" else value.to(weight) for key, value in moments.items()
                    }
        if self.optimizer is not None:
            self.scheduler.load_state_dict({**self.scheduler.state_dict(), **schedule})
            for group, rate in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
