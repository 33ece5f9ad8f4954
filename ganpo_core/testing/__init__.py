"""Conformance checks that plugin authors run on their own components.

    def test_my_loss(ganpo_verify):
        ganpo_verify(MyLoss(beta=0.1))

The fixture comes with ganpo; without pytest, call `verify` or one of the five checks, or `ganpo verify KIND NAME` in a
shell. Each runs a component on small random values and raises AssertionError at the first promise it breaks, naming
the method, what was expected and what was found. None needs a model, but a judge that is one; each takes a second or two.
"""

from ganpo_core.testing.discriminators import check_discriminator
from ganpo_core.testing.divergences import check_divergence
from ganpo_core.testing.extractors import check_extractor
from ganpo_core.testing.judges import check_judge
from ganpo_core.testing.objectives import check_objective
from ganpo_core.testing.verify import verify

__all__ = ["check_discriminator", "check_divergence", "check_extractor", "check_judge", "check_objective", "verify"]
