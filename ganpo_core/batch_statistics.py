"""What one micro-batch must know of the rest of its step, and of the past: the `batch_statistics` of an objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ganpo_core.answers import ask_values
from ganpo_core.components import Objective
from ganpo_core.data import PairBatch
from ganpo_core.errors import PluginError
from ganpo_core.losses import Scored, single
from ganpo_core.types import PairLogps, TokenLogps

Reduce = Callable[[Tensor], Tensor]


class BatchStatistics:
    """The `batch_statistics` of an objective: what one micro-batch must know of the rest of its step, and of the past."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        kinds = objective.batch_statistics
        self._names = {
            kind: tuple(name for name, own in kinds.items() if own == kind)
            for kind in ("lengths", "mismatched", "micro_batch", "running_mean")
        }
        means = self._names["running_mean"]
        # On the device, so that no step waits to read them.
        self._running = torch.zeros(len(means), dtype=torch.float64)
        self._decay = torch.tensor([objective.decay_of(name) for name in means], dtype=torch.float64)
        self._sums: Tensor | None = None
        self._lengths_are_checked = False

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
            self._check_lengths(known)
        if names := self._names["mismatched"]:
            known |= self._means(names, mismatched, sum_over_processes)
        self._running, self._decay = self._running.to(device), self._decay.to(device)
        known |= dict(zip(self._names["running_mean"], self._running.unbind(), strict=True))
        return known

    def of_batch(self, scored: Scored, gather: Reduce) -> dict[str, Tensor]:
        """Those of one micro-batch; `gather` joins a tensor of all processes, this one's first."""
        running, shared = self._names["running_mean"], self._names["micro_batch"]
        if not running and not shared:
            return {}
        values = self._values((*running, *shared), scored)
        if running:
            sums = _table([values[name] for name in running])
            self._sums = sums if self._sums is None else self._sums + sums
        return {name: gather(values[name].detach()) for name in shared}

    def settle(self) -> dict[str, Tensor]:
        """What must be finite before anything is updated, by name: the step's values and the running means."""
        if self._sums is None:
            return {}
        return {"running means of the objective": torch.cat([self._sums.flatten(), self._running])}

    def undo_step(self) -> None:
        """Drop the step's values."""
        self._sums = None

    def finish_step(self, sum_over_processes: Reduce) -> None:
        """Let the step's values enter the running means."""
        if self._sums is None:
            return
        totals, counts = sum_over_processes(self._sums).unbind(-1)
        moved = self._decay * self._running + (1 - self._decay) * totals / counts.clamp(min=1)
        self._running = torch.where(counts > 0, moved, self._running)
        self._sums = None

    def state(self) -> dict[str, float]:
        """The running means, to save."""
        return dict(zip(self._names["running_mean"], self._running.tolist(), strict=True))

    def load(self, state: Mapping[str, float]) -> None:
        """Restore `state`."""
        values = [float(state[name]) for name in self._names["running_mean"]]
        self._running = torch.tensor(values, dtype=torch.float64)

    def _means(self, names: Sequence[str], batches: Iterable[Scored], reduce: Reduce) -> dict[str, Tensor]:
        values = [self._values(names, scored) for scored in batches]
        table = reduce(torch.stack([_table([found[name] for name in names]) for found in values]).sum(0))
        return {name: total / count.clamp(min=1) for name, (total, count) in zip(names, table, strict=True)}

    @torch.no_grad()
    def _values(self, names: Sequence[str], scored: Scored) -> Mapping[str, Tensor]:
        batch, policy, reference = scored
        given = reference if self.objective.needs_reference else None
        if batch.desirable is None:
            return ask_values(self.objective, "batch_values", names, policy, given)
        theirs = None if given is None else single(given, batch)
        return ask_values(
            self.objective, "batch_values_unpaired", names, single(policy, batch), theirs, batch.desirable
        )

    def _check_lengths(self, known: Mapping[str, Tensor]) -> None:
        """Once, since it waits for the device: nothing but masks was given, so a number must come back."""
        if not self._lengths_are_checked and (wrong := [name for name, value in known.items() if value.isnan()]):
            raise PluginError(
                f"{type(self.objective).__name__}: the batch statistic {', '.join(wrong)} of the kind `lengths` reads "
                "log-probabilities; it may depend on `mask` and `length` alone. Means of log-ratios are `running_mean`"
            )
        self._lengths_are_checked = True


def _table(values: Sequence[Tensor]) -> Tensor:
    """[values, 2], the sum and the number of each."""
    rows = [torch.stack([own.sum().double(), own.new_tensor(own.numel(), dtype=torch.float64)]) for own in values]
    return torch.stack(rows)


def _masks(batch: PairBatch) -> PairLogps:
    """A batch before any pass: response tokens in place, without log-probabilities."""
    mask, pairs = batch.tokens.response, batch.num_pairs
    chosen, rejected = (
        TokenLogps(torch.full_like(part, torch.nan, dtype=torch.float32), part) for part in torch.split(mask, pairs)
    )
    prompt = batch.layout.prompts.mask
    return PairLogps(
        chosen, rejected, prompt=TokenLogps(torch.full_like(prompt, torch.nan, dtype=torch.float32), prompt)
    )
