"""Metrics as sums and counts that stay on the device, reduced over processes once per logging interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class MetricSums:
    """Named sums with counts; nothing waits for the device before `means`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, name: str, values: Tensor, counted: Tensor | None = None) -> None:
        """Average `values`, [N] or scalar, over everything added under `name`; `counted`, [N] bool, leaves rows out."""
        values = values.detach().double()
        if counted is None:
            self._add(name, torch.stack([values.sum(), torch.full_like(values.sum(), values.numel())]))
        else:
            self._add(name, torch.stack([values.masked_fill(~counted, 0.0).sum(), counted.sum().double()]))

    def add_part(self, name: str, part: Tensor) -> None:
        """Add up the parts of a step's scalar; the mean is over optimizer steps."""
        self._add(f"{name}\0step", torch.stack([part.detach().double(), torch.zeros_like(part, dtype=torch.float64)]))

    def finish_step(self) -> None:
        """Count one optimizer step."""
        self.steps += 1

    def means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The averages over all processes, by name; `reduce` adds a tensor up over them. One transfer in all."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        table = reduce(torch.stack([self.sums[name] for name in names])).tolist()
        result = {}
        for name, (total, count) in zip(names, table, strict=True):
            key, per_step = name.removesuffix("\0step"), name.endswith("\0step")
            result[key] = total / max(self.steps, 1) if per_step else total / max(count, 1.0)
        return result

    def clear(self) -> None:
        """Start the next interval."""
        self.sums = {}
        self.steps = 0

    def state(self) -> dict[str, object]:
        """As plain data, exact."""
        return {"steps": self.steps, "sums": {name: pair.tolist() for name, pair in self.sums.items()}}

    def load(self, state: Mapping[str, object]) -> None:
        """Restore `state`."""
        sums = state["sums"]
        assert isinstance(sums, Mapping)
        self.steps = int(str(state["steps"]))
        self.sums = {
            name: torch.tensor(pair, dtype=torch.float64, device=self.device) for name, pair in sums.items()
        }

    def load_sum(self, states: Sequence[Mapping[str, object]]) -> None:
        """Restore what several processes held, as if this one had seen all of it."""
        self.load(states[0])
        for state in states[1:]:
            other = MetricSums(self.device)
            other.load(state)
            for name, pair in other.sums.items():
                self._add(name, pair)

    def _add(self, name: str, pair: Tensor) -> None:
        held = self.sums.get(name)
        self.sums[name] = pair if held is None else held + pair
