"""Several objectives at once."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from ganpo_core import (
    BatchStatistic,
    Component,
    ConfigError,
    Create,
    Need,
    Objective,
    PairLogps,
    PairLoss,
    ResponseLoss,
    TokenLogps,
)

Options = dict[str, object]
"""`use`, `weight`, and whatever the objective takes: checked when it is made."""


def mixed_preferences() -> tuple[Options, ...]:
    """Mixed preference optimization (arXiv 2411.10442): preference, quality and generation."""
    return (
        {"use": "dpo", "weight": 0.8},
        {"use": "bco", "weight": 0.2},
        {"use": "sft", "weight": 1.0},
    )


@dataclass(frozen=True)
class Weighted(Objective):
    """A weighted sum of objectives, each with its own options.

        loss = sum over the list of weight * loss

    Left to itself it is mixed preference optimization (MPO): 0.8 dpo + 0.2 bco + 1.0 sft. The rewards logged are those
    of the first objective; each one's loss is logged as `objective/PLACE.NAME`.

    Source: arXiv 2411.10442.
    TRL: `loss_type=[…]` with `loss_weights=[…]`.
    Departs: in TRL's MPO the boundary of `bco` stays at 0 (`delta: zero`).
    When: one loss fixes what another breaks: MPO for vision-language models, DPO with SFT for reasoning.
    """

    known_as: ClassVar = {"mpo": "arXiv 2411.10442"}

    objectives: tuple[Options, ...] = field(default_factory=mixed_preferences)
    """Each names an objective with `use:`, its `weight` (1 where it is left out), and its options."""

    def __post_init__(self) -> None:
        if not self.objectives:
            raise ValueError("objectives: name at least one")
        for index, options in enumerate(self.objectives):
            weight = options.get("weight", 1.0)
            if not isinstance(options.get("use"), str):
                near = [] if "use" in options else get_close_matches("use", options, 1)
                raise ValueError(
                    f"objectives.{index}.{near[0]}: unknown option. Did you mean 'use'?" if near
                    else f"objectives.{index}: name an objective with `use:`"
                )
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"objectives.{index}.weight must be a number of at least 0, got {weight!r}")

    def bind(self, create: Create, path: str) -> None:
        """Make the objectives with everything that the run's plugins name."""
        made: list[Objective] = []
        problems: list[str] = []
        for index, listed in enumerate(self.objectives):
            options = {key: value for key, value in listed.items() if key not in ("use", "weight")}
            where = f"{path}.objectives.{index}"
            try:
                made.append(_as_objective(create(str(listed["use"]), options, where, ("use", "weight"))))
            except ConfigError as error:
                problems += [
                    message if message.startswith(where) else f"{where}.use: {message}" for message in error.problems
                ]
        if problems:
            raise ConfigError(problems)
        object.__setattr__(self, "_made", tuple(made))

    @property
    def parts(self) -> tuple[tuple[float, Objective], ...]:
        """(weight, objective) of each; outside of a run, of the built-in ones."""
        if "_made" not in vars(self):
            self.bind(_built_in, "objective")
        weights = [float(str(listed.get("weight", 1.0))) for listed in self.objectives]
        return tuple(zip(weights, vars(self)["_made"], strict=True))

    # -- what the parts need -----------------------------------------------------------------------------------------

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """True where any part does."""
        return any(part.needs_reference for _, part in self.parts)

    @property
    def token_statistics(self) -> frozenset[str]:  # type: ignore[override]
        """Of all parts."""
        return frozenset[str]().union(*(part.token_statistics for _, part in self.parts))

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """Of all parts."""
        return reduce(lambda found, part: found | part[1].needs, self.parts, frozenset())

    @property
    def batch_statistics(self) -> Mapping[str, BatchStatistic]:  # type: ignore[override]
        """Of all parts, under their places in the list."""
        return {
            f"{index}.{name}": kind
            for index, (_, part) in enumerate(self.parts)
            for name, kind in part.batch_statistics.items()
        }

    @property
    def takes_unpaired(self) -> bool:
        """True where every part does."""
        return all(part.takes_unpaired for _, part in self.parts)

    def decay_of(self, name: str) -> float:
        index, _, own = name.partition(".")
        return self.parts[int(index)][1].decay_of(own)

    def batch_values(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        return _numbered([part.batch_values(policy, reference) for _, part in self.parts])

    def batch_values_unpaired(
        self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor
    ) -> Mapping[str, Tensor]:
        return _numbered([part.batch_values_unpaired(policy, reference, desirable) for _, part in self.parts])

    # -- the loss ----------------------------------------------------------------------------------------------------

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        found = [
            part.loss(replace(policy, batch=_own(policy.batch, index)), reference if part.needs_reference else None)
            for index, (_, part) in enumerate(self.parts)
        ]
        terms = [weight * result.per_pair for (weight, _), result in zip(self.parts, found, strict=True)]
        metrics = self._metrics([(result.per_pair, result.metrics) for result in found])
        return replace(found[0], per_pair=torch.stack(terms).sum(0), metrics=metrics)

    def loss_unpaired(self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor) -> ResponseLoss:
        found = [
            part.loss_unpaired(
                replace(policy, batch=_own(policy.batch, index)), reference if part.needs_reference else None, desirable
            )
            for index, (_, part) in enumerate(self.parts)
        ]
        terms = [weight * result.per_response for (weight, _), result in zip(self.parts, found, strict=True)]
        metrics = self._metrics([(result.per_response, result.metrics) for result in found])
        return replace(found[0], per_response=torch.stack(terms).sum(0), metrics=metrics)

    def _metrics(self, found: Sequence[tuple[Tensor, Mapping[str, Tensor]]]) -> Mapping[str, Tensor]:
        """Each part's own loss, before its weight, and what it logs itself."""
        noted: dict[str, Tensor] = {}
        for index, (values, metrics) in enumerate(found):
            part = f"{index}.{self.objectives[index]['use']}"
            noted[part] = values.detach()
            noted |= {f"{part}/{name}": own for name, own in metrics.items()}
        return noted


def _built_in(name: str, options: Mapping[str, object], path: str, beside: Collection[str] = ()) -> Component:
    from ganpo_core import component

    return component("objective", name, **dict(options))  # type: ignore[arg-type]


def _as_objective(part: Component) -> Objective:
    assert isinstance(part, Objective)
    return part


def _numbered(values: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    return {f"{index}.{name}": value for index, own in enumerate(values) for name, value in own.items()}


def _own(batch: Mapping[str, Tensor], index: int) -> Mapping[str, Tensor]:
    """The statistics of one part, under its own names."""
    prefix = f"{index}."
    return {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
