"""The baselines of one optimizer step: counted over its micro-batches and processes, settled, then committed.

Shape suffixes: K critics (2), G groups (own anchor, policy, cross anchor).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ganpo_core.adversary.critic import Judgement
from ganpo_core.adversary.means import RunningMeans
from ganpo_core.adversary.regularizer import Reduce


class Baselines:
    """What the groups' scores are compared with, where the divergence compares them with anything."""

    def __init__(self, means: RunningMeans, reduce: Reduce, needed: bool) -> None:
        self.means = means
        self._reduce = reduce
        self._needed = needed
        self._waits_for_step = means.config.means_clock == "step"
        self._sums_KG2: Tensor | None = None
        self._settled_KG: Tensor | None = None
        self._before = (means.values_KG, means.started)

    def remember(self) -> None:
        """Keep the means, for `undo`."""
        self._before = (self.means.values_KG, self.means.started)

    def undo(self) -> None:
        """Put back what `remember` kept, and drop what was counted since."""
        self.means.values_KG, self.means.started = self._before
        self._sums_KG2 = self._settled_KG = None

    def at_stake(self) -> Tensor:
        """The means and what is about to enter them: all of it must be finite."""
        kept = self.means.values_KG.flatten()
        return kept if self._sums_KG2 is None else torch.cat([kept, self._sums_KG2.flatten().to(kept)])

    @property
    def settle_first(self) -> bool:
        """True where this step's baselines depend on all of its scores."""
        return self._needed and self._waits_for_step and self.means.needs_step_sums

    @property
    def current(self) -> Tensor:
        """[K, G], of the scores at hand."""
        return self.means.values_KG if self._settled_KG is None else self._settled_KG

    def live_shares(self) -> tuple[float, float, float]:
        """Of each group, how much of the baseline the critics' losses are differentiated through."""
        return self.means.live_shares() if self.means.config.means_detach == "policy" else (0.0, 0.0, 0.0)

    def count(self, sides: Sequence[Mapping[int, Judgement]]) -> Tensor:
        """Add a micro-batch's scores, by group, to the step's (sum, count) table; returns its own, [K, G, 2]."""
        table_KG2 = self.means.values_KG.new_zeros(2, 3, 2)
        for index, groups in enumerate(sides):
            for group, judged in groups.items():
                values = judged.scores.detach().masked_fill(~judged.valid, 0.0)
                table_KG2[index, group, 0] = values.sum()
                table_KG2[index, group, 1] = judged.valid.sum()
        self._sums_KG2 = table_KG2 if self._sums_KG2 is None else self._sums_KG2 + table_KG2
        return table_KG2

    def settle(self) -> None:
        """Fix the step's baselines from the sums counted so far."""
        assert self._sums_KG2 is not None
        self._sums_KG2 = self._reduced(self._sums_KG2)
        self._settled_KG = self.means.for_step(self._sums_KG2)

    def observe(self, sides: Sequence[Mapping[int, Judgement]]) -> None:
        """Let a micro-batch's scores count, once, and settle the baselines where they wait for nothing more."""
        if not self._needed:
            return
        if not self._waits_for_step:
            table_KG2 = self._reduced(self.count(sides))
            self._settled_KG = self.means.for_step(table_KG2)
            self.means.commit(table_KG2)
        elif self._settled_KG is None:
            self.count(sides)
            if self.means.needs_step_sums:  # the step is this one micro-batch, else it would have been settled first
                self.settle()

    def finish_step(self) -> None:
        """Commit the step's scores to the running means."""
        if self._needed and self._waits_for_step:
            assert self._sums_KG2 is not None
            # Sums that were settled have been added up over processes.
            settled = self._settled_KG is not None
            self.means.commit(self._sums_KG2 if settled else self._reduced(self._sums_KG2))
        self._sums_KG2 = self._settled_KG = None

    def _reduced(self, sums_KG2: Tensor) -> Tensor:
        return self._reduce(sums_KG2) if self.means.config.means_reduce == "global" else sums_KG2
