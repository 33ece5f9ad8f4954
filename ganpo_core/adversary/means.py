"""Running means of the critics' scores: the baselines of relativistic divergences.

Shape suffixes: K critics (2), G groups (own anchor, policy, cross anchor).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ganpo_core.config import AdversaryConfig

OWN, POLICY, CROSS = 0, 1, 2
GROUPS = ("anchor", "policy", "cross")


class RunningMeans:
    """One mean per critic and group, committed once per optimizer step over all processes."""

    def __init__(self, config: AdversaryConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        self.values_KG = torch.zeros(2, 3, device=device, dtype=dtype)
        self.started = config.means_start == "zero"

    @property
    def needs_step_sums(self) -> bool:
        """True where this step's baselines depend on its own scores."""
        updated_first = self.config.means_order == "update_then_use"
        return not self.started or updated_first or self.config.means != "all"

    def for_step(self, sums_KG2: Tensor | None) -> Tensor:
        """[K, G] baselines of a step whose (sum, count) over all its scores are `sums_KG2`, if those are needed."""
        if sums_KG2 is None:
            return self.values_KG
        batch_KG = self._batch_means(sums_KG2)
        updated = self.config.means_order == "update_then_use" or not self.started
        running_KG = self._updated(batch_KG) if updated else self.values_KG
        if self.config.means == "none":
            return batch_KG
        if self.config.means == "anchors":
            return torch.cat([running_KG[:, : OWN + 1], batch_KG[:, OWN + 1 :]], dim=1)
        return running_KG

    def live_shares(self) -> tuple[float, float, float]:
        """How much of each group's baseline is the mean of the scores at hand, in `for_step` of these scores."""
        updated = self.config.means_order == "update_then_use"
        running = (1 - self.config.means_decay if updated else 0.0) if self.started else 1.0
        kept = {"all": (True, True, True), "anchors": (True, False, False), "none": (False, False, False)}
        own, policy, cross = (running if is_running else 1.0 for is_running in kept[self.config.means])
        return own, policy, cross

    def commit(self, sums_KG2: Tensor) -> None:
        """Let a finished step's scores enter the means."""
        self.values_KG = self._updated(self._batch_means(sums_KG2))
        self.started = True

    def _batch_means(self, sums_KG2: Tensor) -> Tensor:
        sums, counts = sums_KG2.unbind(-1)
        return torch.where(counts > 0, sums / counts.clamp(min=1), self.values_KG)

    def _updated(self, batch_KG: Tensor) -> Tensor:
        if not self.started:
            return batch_KG
        decay = self.config.means_decay
        return decay * self.values_KG + (1 - decay) * batch_KG
