"""The objective's value of a micro-batch, of pairs or of single responses, with what it must know of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganpo_core.components import Objective
from ganpo_core.data import PairBatch
from ganpo_core.errors import PluginError
from ganpo_core.types import PairLogps, PairLoss, ResponseLoss, TokenLogps

Reduce = Callable[[Tensor], Tensor]
Scored = tuple[PairBatch, PairLogps, PairLogps | None]
"""A micro-batch under the policy and under the reference."""


@dataclass(frozen=True)
class Losses:
    """What the objective says of B pairs or single responses."""

    per_item: Tensor
    """[B], differentiable."""
    metrics: Mapping[str, Tensor]
    """One-dimensional each, under TRL's names."""


def objective_losses(
    objective: Objective,
    batch: PairBatch,
    policy: PairLogps,
    reference: PairLogps | None,
    known: Mapping[str, Tensor],
    count: int | None = None,
) -> Losses:
    """The objective's value; `known` are its `batch_statistics`; metrics are of the first `count` items.

    Raises PluginError for a shape that is not [B].
    """
    if batch.desirable is None:
        loss = objective.loss(replace(policy, batch=known, preference=batch.preference), reference)
        per_pair = _checked(objective, "loss", loss, PairLoss, "per_pair", "pairs", batch.num_pairs)
        assert isinstance(loss, PairLoss)
        margin = loss.chosen_reward - loss.rejected_reward
        metrics = {
            "objective_loss": per_pair,
            "rewards/chosen": loss.chosen_reward,
            "rewards/rejected": loss.rejected_reward,
            "rewards/margins": margin,
            "rewards/accuracies": (margin > 0).double(),
            "logps/chosen": policy.chosen.total,
            "logps/rejected": policy.rejected.total,
        }
        return Losses(per_pair, {name: values[:count] for name, values in metrics.items()})
    mine, theirs = single(policy, batch), None if reference is None else single(reference, batch)
    answer = objective.loss_unpaired(replace(mine, batch=known), theirs, batch.desirable)
    per_item = _checked(
        objective, "loss_unpaired", answer, ResponseLoss, "per_response", "responses", batch.num_pairs
    )
    assert isinstance(answer, ResponseLoss)
    good, reward, total = batch.desirable[:count], answer.reward[:count], mine.total[:count]
    metrics = {
        "objective_loss": per_item[:count],
        "rewards/chosen": reward[good],
        "rewards/rejected": reward[~good],
        "logps/chosen": total[good],
        "logps/rejected": total[~good],
    }
    return Losses(per_item, metrics)


def single(pairs: PairLogps, batch: PairBatch) -> TokenLogps:
    """The single responses of unpaired data, in the order of the batch."""
    assert batch.desirable is not None
    desirable = batch.desirable[:, None]
    chosen, rejected = pairs.chosen, pairs.rejected
    ids = None
    if chosen.token_ids is not None and rejected.token_ids is not None:
        ids = torch.where(desirable, chosen.token_ids, rejected.token_ids)
    return TokenLogps(
        torch.where(desirable, chosen.logps, rejected.logps),
        torch.where(desirable, chosen.mask, rejected.mask),
        {name: torch.where(desirable, values, rejected.statistics[name]) for name, values in chosen.statistics.items()},
        ids,
    )


class BatchStatistics:
    """The `batch_statistics` of an objective: what one micro-batch must know of the rest of its step, and of the past."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        kinds = objective.batch_statistics
        self._names = {
            kind: tuple(name for name, own in kinds.items() if own == kind)
            for kind in ("lengths", "mismatched", "micro_batch", "running_mean")
        }
        self._running = dict.fromkeys(self._names["running_mean"], 0.0)
        self._sums: Tensor | None = None

    @property
    def needs_mismatched(self) -> bool:
        """True where responses after other prompts must be scored."""
        return bool(self._names["mismatched"])

    @property
    def depends_on_micro_batch(self) -> bool:
        """True where the loss of a step is another one when it is split into other micro-batches."""
        return bool(self._names["micro_batch"])

    def begin_step(
        self, window: Sequence[PairBatch], mismatched: Iterable[Scored], sum_over_processes: Reduce
    ) -> dict[str, Tensor]:
        """The statistics that are the same for all micro-batches of a step."""
        known: dict[str, Tensor] = {}
        device = window[0].input_ids.device
        if lengths := self._names["lengths"]:
            masks = [(batch, _masks(batch), _masks(batch)) for batch in window]
            known |= self._means(lengths, masks, sum_over_processes)
        if names := self._names["mismatched"]:
            known |= self._means(names, mismatched, sum_over_processes)
        for name, value in self._running.items():
            known[name] = torch.tensor(value, dtype=torch.float64, device=device)
        return known

    def of_batch(self, scored: Scored, gather: Reduce) -> dict[str, Tensor]:
        """Those of one micro-batch; `gather` joins a tensor of all processes, this one's first."""
        if self._names["running_mean"]:
            sums = self._table(self._names["running_mean"], self._values(scored))
            self._sums = sums if self._sums is None else self._sums + sums
        if not self._names["micro_batch"]:
            return {}
        values = self._values(scored)
        return {name: gather(values[name].detach()) for name in self._names["micro_batch"]}

    def finish_step(self, sum_over_processes: Reduce) -> None:
        """Let the step's values enter the running means."""
        if self._sums is None:
            return
        for name, (total, count) in zip(self._running, sum_over_processes(self._sums).tolist(), strict=True):
            if count:
                decay = self.objective.decay_of(name)
                self._running[name] = decay * self._running[name] + (1 - decay) * total / count
        self._sums = None

    def state(self) -> dict[str, float]:
        """The running means, to save."""
        return dict(self._running)

    def load(self, state: Mapping[str, float]) -> None:
        """Restore `state`."""
        self._running = {name: float(state[name]) for name in self._running}

    def _means(self, names: Sequence[str], batches: Iterable[Scored], reduce: Reduce) -> dict[str, Tensor]:
        tables = [self._table(names, self._values(scored)) for scored in batches]
        table = reduce(torch.stack(tables).sum(0))
        return {name: total / count.clamp(min=1) for name, (total, count) in zip(names, table, strict=True)}

    def _table(self, names: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
        """[names, 2], the sum and the number of each."""
        rows = [
            torch.stack([values[name].sum().double(), values[name].new_tensor(values[name].numel(), dtype=torch.float64)])
            for name in names
        ]
        return torch.stack(rows)

    @torch.no_grad()
    def _values(self, scored: Scored) -> Mapping[str, Tensor]:
        batch, policy, reference = scored
        given = reference if self.objective.needs_reference else None
        if batch.desirable is None:
            return self.objective.batch_values(policy, given)
        theirs = None if given is None else single(given, batch)
        return self.objective.batch_values_unpaired(single(policy, batch), theirs, batch.desirable)


def _masks(batch: PairBatch) -> PairLogps:
    """A batch before any pass: response tokens in place, log-probabilities 0."""
    mask, pairs = batch.tokens.response, batch.num_pairs
    chosen, rejected = (TokenLogps(torch.zeros_like(part, dtype=torch.float32), part) for part in torch.split(mask, pairs))
    return PairLogps(chosen, rejected)


def _checked(
    objective: Objective, method: str, found: object, kind: type, field: str, items: str, count: int
) -> Tensor:
    values = getattr(found, field, None)
    if isinstance(found, kind) and isinstance(values, Tensor) and values.shape == (count,):
        return values
    what = tuple(values.shape) if isinstance(values, Tensor) else type(found).__name__
    raise PluginError(
        f"{type(objective).__name__}.{method} returned {what}; expected a {kind.__name__} with one value for each of "
        f"{count} {items}"
    )
