"""What only the authors' released trainer does, kept in this one file.

Its boundary test compares the number of optimizer steps with the accumulation length, while the optimizers act only
when gradients are exchanged. So the critics step once every G optimizer steps, G being the accumulation length, on
gradients summed over G * G micro-batches of 1/G each; in the micro-batch that steps them the policy already answers
the updated critics. Every group is scored by a forward pass of its own, and each such pass iterates the spectral norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ganpo_core.adversary.game import CriticGame, SideScores
from ganpo_core.adversary.regularizer import LatentBatch, Totals

if TYPE_CHECKING:
    from ganpo_core.metrics import MetricSums

_GRADIENT = "gradient."


class ReleasedGame(CriticGame):
    """The `legacy` schedule."""

    num_processes = 1
    """Set by whoever builds it."""

    def begin_step(self, step: int, num_micro_batches: int, schedule_step: float) -> None:
        """As the base class; micro-batches are counted from here."""
        super().begin_step(step, num_micro_batches, schedule_step)
        self._micro_batch = 0

    @property
    def _moves_first(self) -> bool:
        """In the micro-batch that steps them."""
        return True

    def penalty(self, batch: LatentBatch, totals: Totals, metrics: MetricSums) -> Tensor:
        """Critics first, stepping where the released rule has it; then the policy's answer."""
        self._train_critics(batch, self._judge_sides(batch), totals, metrics)
        self._micro_batch += 1
        gradients_are_exchanged = self._micro_batch == self.num_micro_batches
        if gradients_are_exchanged and (self.step + 1) % self.num_micro_batches == 0:
            self._moved = self.critics.gather()
            self._step_critics()
        return self._answers(batch, self._judge_for_policy(batch), totals, metrics)

    @property
    def _update(self) -> float:
        """One update a boundary; under accelerate their schedule advances by a tick for each process."""
        return self.num_processes * max(0.0, (self.schedule_step + 1) / self.num_micro_batches - 1)

    def _judge(self, batch: LatentBatch, side: int, cross: bool) -> SideScores:
        critic, features = self.critics[side], self.plan.config.form == "feature_matching"
        anchor = critic(batch.reference_side(side), features)
        policy = critic(batch.policy_side(side), features)
        return SideScores(anchor, policy, critic(batch.reference_side(1 - side), features) if cross else None)

    def tensors(self) -> dict[str, Tensor]:
        """As the base class, with the gradients that wait for the next boundary."""
        waiting = {
            f"{_GRADIENT}{side}.{name}": weight.grad
            for side, critic in self.critics.named().items()
            for name, weight in critic.named_parameters()
            if weight.grad is not None
        }
        return {**super().tensors(), **waiting}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore `tensors` and `state`."""
        super().load({name: value for name, value in tensors.items() if not name.startswith(_GRADIENT)}, state)
        for side, critic in self.critics.named().items():
            for name, weight in critic.named_parameters():
                waiting = tensors.get(f"{_GRADIENT}{side}.{name}")
                weight.grad = None if waiting is None else waiting.to(weight)
