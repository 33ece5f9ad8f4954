"""What the step asks of a latent regularizer, and the direct distances, which need no critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ganpo_core.adversary.standard import Standard
from ganpo_core.asking import ask, ask_scalar, method_name
from ganpo_core.config import AdversaryPlan
from ganpo_core.latents import read_selected
from ganpo_core.types import Latents, TokenMap

if TYPE_CHECKING:
    from ganpo_core.metrics import MetricSums

CHOSEN, REJECTED = 0, 1
SIDES = ("chosen", "rejected")

Reduce = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""
Gather = Callable[[Tensor], Tensor]
"""Joins the rows [M, …] of all processes, in their order; M may differ between them."""


@dataclass(frozen=True)
class LatentBatch:
    """Latents of the same B pairs under policy and reference; 2B rows, chosen first."""

    policy: Latents
    reference: Latents
    """Detached."""
    num_selected: Tensor
    """[2], positions that the extractor reads in the chosen and in the rejected rows."""

    @property
    def num_pairs(self) -> int:
        """B."""
        return self.policy.states.shape[0] // 2

    @property
    def num_rows(self) -> Tensor:
        """[2], chosen and rejected rows that hold anything: fewer than B where responses come without a partner."""
        return self.policy.mask.any(1).view(2, -1).sum(1)

    def policy_side(self, side: int) -> Latents:
        """The policy's B rows of the chosen (0) or rejected (1) responses."""
        return self.policy.rows(side * self.num_pairs, (side + 1) * self.num_pairs)

    def reference_side(self, side: int) -> Latents:
        """The reference's."""
        return self.reference.rows(side * self.num_pairs, (side + 1) * self.num_pairs)

    def detach(self) -> LatentBatch:
        """The same values, without any graph."""
        return replace(self, policy=self.policy.detach())


@dataclass(frozen=True)
class Totals:
    """What one optimizer step holds, over all of its micro-batches and processes."""

    num_pairs: int
    num_selected: Tensor
    """[2], as in LatentBatch."""
    num_rows: Tensor
    """[2], as in LatentBatch."""

    def pair_share(self, batch: LatentBatch) -> float:
        """The part of the step that a micro-batch is, in pairs: means over rows times this add up to the step's mean."""
        return batch.num_pairs / self.num_pairs

    def rows_share(self, batch: LatentBatch) -> Tensor:
        """[2], rows of the step that a micro-batch stands for: `pair_share` of them, whatever it holds itself."""
        return self.num_rows.clamp(min=1) * self.pair_share(batch)

    def share(self, batch: LatentBatch, side: int, num_positions: int) -> Tensor:
        """The same for a mean over the valid positions of [N, num_positions, ...]; only what is pooled has one a row."""
        if num_positions == 1:
            return batch.num_rows[side] / self.num_rows[side].clamp(min=1)
        return batch.num_selected[side] / self.num_selected[side].clamp(min=1)


class Regularizer:
    """One latent regularizer of a run: `weight * penalty`, its gradient given at the policy's latents."""

    def __init__(self, plan: AdversaryPlan, max_steps: int, reduce: Reduce, device: torch.device) -> None:
        self.plan = plan
        self.device = device
        """Of the latents, and of everything that is kept beside them."""
        self.prefix = "adversary" if plan.name == "latent" else f"adversary/{plan.name}"
        self.step, self.schedule_step, self.num_micro_batches = 0, 0.0, 1
        self.standard: Standard | None = None
        """What latents are standardized by, where the extractor asks for it."""
        self._noted: list[tuple[str, Tensor]] = []
        self._scale: Tensor | None = None
        self._squares: Tensor | None = None
        self._reduce = reduce
        self._warmup = round(plan.config.weight_warmup_ratio * max_steps)

    @property
    def weight(self) -> float:
        """Of the penalty in this step, before `grad_ratio` lowers it."""
        growth = min(1.0, self.schedule_step / self._warmup) if self._warmup else 1.0
        return self.plan.config.weight * growth

    @property
    def scale(self) -> Tensor | float:
        """What `grad_ratio` leaves of the weight: settled by the step before, as the running means are."""
        return 1.0 if self._scale is None else self._scale

    def note_force(self, penalty_square: Tensor, objective_square: Tensor) -> None:
        """Squared norms, at the latents, of this micro-batch's gradients: `weight * penalty` before `scale`, the rest."""
        squares = torch.stack([penalty_square, objective_square]).double()
        self._squares = squares if self._squares is None else self._squares + squares

    def begin_step(self, step: int, num_micro_batches: int, schedule_step: float) -> None:
        """Called before a step's first micro-batch; steps are counted from 0, `schedule_step` as schedules count them."""
        self.step, self.schedule_step, self.num_micro_batches = step, schedule_step, num_micro_batches
        self._squares = None
        self._noted = []

    def noted(self, name: str, answer: Tensor) -> Tensor:
        """`answer`, kept under who gave it until the next step, for `suspect`."""
        self._noted.append((name, answer.detach()))
        return answer

    def suspect(self) -> str | None:
        """Who was first in this step to answer with something that is not finite; waits for the device."""
        return next((name for name, answer in self._noted if not bool(answer.isfinite().all())), None)

    @property
    def looks_ahead(self) -> bool:
        """True where this step's latents are needed once more, before the pass that trains the policy."""
        return False

    def view(self, latents: Latents) -> Latents:
        """The latents as this regularizer sees them."""
        return latents if self.standard is None else self.standard.apply(latents)

    def count(self, tokens: TokenMap) -> Tensor:
        """[2], positions compared in the chosen and in the rejected rows."""
        return read_selected(self.plan.latents, tokens).view(2, -1).sum(1).double()

    def count_rows(self, tokens: TokenMap) -> Tensor:
        """[2], chosen and rejected rows in which anything is compared."""
        selected = read_selected(self.plan.latents, tokens)
        return self.view(Latents(selected[..., None], selected)).mask.any(1).view(2, -1).sum(1).double()

    def prepare(self, window: Sequence[LatentBatch], totals: Totals, metrics: MetricSums) -> None:
        """See the latents of the whole step first."""

    def penalty(self, batch: LatentBatch, totals: Totals, metrics: MetricSums) -> Tensor:
        """This micro-batch's part of the unweighted penalty, differentiable in `batch.policy.states`."""
        raise NotImplementedError

    def settle(self) -> dict[str, Tensor]:
        """Called once the step's last gradient is known: what must be finite before anything is updated, by name."""
        found = {} if self._squares is None else {f"{self.prefix} gradient at the latents": self._squares}
        return found if self._scale is None else {**found, f"{self.prefix} scale": self._scale}

    def undo_step(self) -> None:
        """Called instead of `finish_step` where something was not finite: be as before `begin_step`."""
        self._squares = None

    def finish_step(self, metrics: MetricSums) -> None:
        """Update whatever is trained beside the policy, and settle the next step's scale."""
        if self._squares is None:
            return
        penalty, objective = self._reduce(self._squares).unbind()
        ratio = (penalty / objective.clamp(min=1e-30)).sqrt()
        metrics.add(f"{self.prefix}/gradient_ratio", ratio * self.scale)
        if self.plan.config.weight_mode == "grad_ratio":
            self._scale = (self.plan.config.grad_ratio / ratio.clamp(min=1e-30)).clamp(max=1.0)
        self._squares = None

    def tensors(self) -> dict[str, Tensor]:
        """Everything to save that is a tensor."""
        found = {} if self._scale is None else {"scale": self._scale}
        return found if self.standard is None else {**found, **self.standard.tensors()}

    def state(self) -> dict[str, Any]:
        """Everything else to save, as plain data."""
        return {}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore `tensors` and `state`."""
        self._scale = tensors["scale"].to(self.device) if "scale" in tensors else None
        if self.standard is not None:
            self.standard = Standard.of_tensors(tensors, self.standard)

    def modules(self) -> dict[str, nn.Module]:
        """Trained modules by name, for the final folder."""
        return {}


class DirectDistance(Regularizer):
    """A distance between the latents themselves, the mean (or sum) over chosen and rejected rows."""

    def __init__(
        self, plan: AdversaryPlan, max_steps: int, reduce: Reduce, device: torch.device, gather: Gather
    ) -> None:
        super().__init__(plan, max_steps, reduce, device)
        self._gather = gather
        self._queues: dict[str, Tensor] = {}
        self._fresh: dict[str, list[Tensor]] = {}

    def penalty(self, batch: LatentBatch, totals: Totals, metrics: MetricSums) -> Tensor:
        values = []
        for side in (CHOSEN, REJECTED):
            reference = batch.reference_side(side)
            reference = replace(reference, past=self._queues.get(SIDES[side]))
            value = ask_scalar(self.plan.divergence, "distance", batch.policy_side(side), reference)
            self.noted(method_name(self.plan.divergence, "distance"), value)
            if self.plan.divergence.queue_size:
                self._fresh.setdefault(SIDES[side], []).append(ask(self.plan.divergence, "remember", reference))
            share = totals.share(batch, side, batch.policy.states.shape[1])
            metrics.add_part(f"{self.prefix}/{SIDES[side]}/distance", value.detach() * share)
            values.append(value * share)
        return reduce_sides(values, self.plan)

    def settle(self) -> dict[str, Tensor]:
        """Also the latents in the queues and those about to enter."""
        rows = [*self._queues.values(), *(part for parts in self._fresh.values() for part in parts)]
        if not rows:
            return super().settle()
        sums = torch.stack([part.sum(dtype=torch.float64) for part in rows])
        return {**super().settle(), f"{self.prefix} queue of past latents": sums}

    def undo_step(self) -> None:
        """Nothing of the step enters the queues."""
        super().undo_step()
        self._fresh = {}

    def finish_step(self, metrics: MetricSums) -> None:
        """Let the step's reference latents enter the queues, those of all processes, and the oldest leave."""
        super().finish_step(metrics)
        for side, fresh in self._fresh.items():
            rows = [self._gather(torch.cat(fresh))]
            if side in self._queues:
                rows.insert(0, self._queues[side].to(rows[0]))
            self._queues[side] = torch.cat(rows)[-self.plan.divergence.queue_size :]
        self._fresh = {}

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), **{f"queue.{side}": rows for side, rows in self._queues.items()}}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load(tensors, state)
        self._queues = {side: tensors[f"queue.{side}"].to(self.device) for side in SIDES if f"queue.{side}" in tensors}


def reduce_sides(values: Sequence[Tensor], plan: AdversaryPlan) -> Tensor:
    """The sum or the mean over the chosen and the rejected side."""
    total = torch.stack(list(values)).sum()
    return total / len(values) if plan.config.reduction == "mean" else total
