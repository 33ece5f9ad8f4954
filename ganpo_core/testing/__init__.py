"""Conformance checks that plugin authors run on their own components.

    def test_my_loss_keeps_the_contract() -> None:
        check_objective(MyLoss(beta=0.1))

Each check runs a component on small random values and raises AssertionError at the first promise it breaks, naming
the method, what was expected and what was found. Needs neither a model nor pytest; takes a second or two.
"""

from ganpo_core.testing.discriminators import check_discriminator
from ganpo_core.testing.divergences import check_divergence
from ganpo_core.testing.extractors import check_extractor
from ganpo_core.testing.objectives import check_objective

__all__ = ["check_discriminator", "check_divergence", "check_extractor", "check_objective"]
