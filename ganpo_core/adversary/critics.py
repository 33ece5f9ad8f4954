"""A game's two critics with their optimizer: trained, saved and restored together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ganpo_core.adversary.critic import Critic
from ganpo_core.adversary.regularizer import SIDES, Reduce
from ganpo_core.asking import ask
from ganpo_core.components import Divergence
from ganpo_core.moments import moments, set_moments
from ganpo_core.schedules import Schedule


class Critics:
    """The critic of the chosen and that of the rejected responses."""

    def __init__(
        self,
        pair: Sequence[Critic],
        optimizer: torch.optim.Optimizer | None,
        schedule: Schedule | None,
        max_grad_norm: float | None,
        reduce: Reduce,
    ) -> None:
        """`optimizer` and `schedule` are None where nothing is trained."""
        self.pair = tuple(pair)
        self.optimizer = optimizer
        self._schedule = schedule
        self._max_grad_norm = max_grad_norm
        self._reduce = reduce
        self._flat: Tensor | None = None
        self._before: tuple[dict[str, Tensor], dict[str, Tensor | None]] | None = None

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

    def gather(self) -> Tensor | None:
        """Add the gradients of all processes up; returns the square of their norm, None where nothing is trained."""
        weights = self._with_gradients()
        if not weights or self.optimizer is None:
            return None
        self._flat = self._reduce(torch.cat([weight.grad.flatten() for weight in weights]))  # type: ignore[union-attr]
        return self._flat.square().sum()

    def waiting(self) -> Tensor | None:
        """The square of the norm of this process's gradients so far, None where there are none."""
        squares = [weight.grad.square().sum() for weight in self._with_gradients() if weight.grad is not None]
        return torch.stack(squares).sum() if squares else None

    def step(self, divergence: Divergence, update: float) -> None:
        """Update both from the gradients that `gather` added up, at the rate that their schedule has for `update`."""
        flat, self._flat = self._flat, None
        if flat is None or self.optimizer is None or self._schedule is None:
            return
        start = 0
        for weight in self._with_gradients():
            weight.grad = flat[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
        if self._max_grad_norm is not None:
            for critic in self.pair:
                nn.utils.clip_grad_norm_(critic.parameters(), self._max_grad_norm)
        self._schedule.set_rate(update)
        self.optimizer.step()
        self.drop_gradients()
        with torch.no_grad():
            for critic in self.pair:
                critic.step_spectral_norms()
                ask(divergence, "project", critic)

    def remember(self) -> None:
        """Keep a copy of everything that `step` changes, for `undo`: a game in which critics move before the policy's
        gradient is known can then take their move back, and nobody waits for the device to find out."""
        waiting = {name: weight.grad for name, weight in self._weights().items()}
        self._before = ({name: tensor.detach().clone() for name, tensor in self.tensors().items()}, waiting)

    def undo(self) -> None:
        """Put back what `remember` kept, and drop what was accumulated since."""
        if self._before is None:
            return
        if self.optimizer is not None:
            self.optimizer.state.clear()
        tensors, waiting = self._before
        self.load(tensors)
        for name, weight in self._weights().items():
            weight.grad = waiting[name]
        self._flat = self._before = None

    def drop_gradients(self) -> None:
        """Forget what was accumulated."""
        self._flat = None
        for critic in self.pair:
            critic.zero_grad(set_to_none=True)

    def _weights(self) -> dict[str, nn.Parameter]:
        return {
            f"{side}.{name}": weight for side, critic in self.named().items() for name, weight in critic.named_parameters()
        }

    def _with_gradients(self) -> list[nn.Parameter]:
        return [weight for weight in self._weights().values() if weight.grad is not None]

    def tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of both critics, and their optimizer's moments."""
        found: dict[str, Tensor] = {}
        for side, critic in self.named().items():
            found |= {f"{side}.{name}": tensor for name, tensor in critic.state_dict().items()}
            for name, weight in critic.named_parameters():
                held = moments(self.optimizer, weight) if self.optimizer is not None else {}
                found |= {f"optimizer.{side}.{name}.{key}": value for key, value in held.items()}
        return found

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore `tensors`."""
        for side, critic in self.named().items():
            critic.load_state_dict(_under(f"{side}.", tensors))
            if self.optimizer is None:
                continue
            for name, weight in critic.named_parameters():
                set_moments(self.optimizer, weight, _under(f"optimizer.{side}.{name}.", tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
