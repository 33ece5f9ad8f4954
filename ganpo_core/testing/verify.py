"""The check of each kind of component."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ganpo_core.components import Component, Discriminator, Divergence, Judge, LatentExtractor, Objective
from ganpo_core.testing.discriminators import check_discriminator
from ganpo_core.testing.divergences import check_divergence
from ganpo_core.testing.extractors import check_extractor
from ganpo_core.testing.judges import check_judge
from ganpo_core.testing.objectives import check_objective

CHECKS: Mapping[type[Component], Callable[..., None]] = {
    Objective: check_objective,
    LatentExtractor: check_extractor,
    Divergence: check_divergence,
    Discriminator: check_discriminator,
    Judge: check_judge,
}


def verify(component: Component) -> None:
    """Run the check of a component's kind. Raises AssertionError at the first promise that it breaks."""
    for base, check in CHECKS.items():
        if isinstance(component, base):
            check(component)
            return
    known = ", ".join(base.__name__ for base in CHECKS)
    raise AssertionError(f"{type(component).__name__}: expected a component that inherits one of {known}")
