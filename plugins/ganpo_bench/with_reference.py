"""SimPO beside a reference pass that it does not read: what an adversary on its latents costs less the reference itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ganpo_core import Objective, PairLogps, PairLoss, component, hookimpl


@dataclass(frozen=True)
class SimPOWithReference(Objective):
    """SimPO; the reference's forward pass is made and thrown away."""

    @cached_property
    def _simpo(self) -> Objective:
        made = component("objective", "simpo")
        assert isinstance(made, Objective)
        return made

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        """SimPO's."""
        return self._simpo.loss(policy, None)


@hookimpl
def ganpo_objectives() -> dict[str, type[Objective]]:
    """For `ganpo bench overhead` alone."""
    return {"bench_simpo_with_reference": SimPOWithReference}
