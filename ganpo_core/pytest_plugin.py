"""A pytest fixture for plugin authors, there as soon as ganpo is installed.

    def test_my_loss(ganpo_verify):
        ganpo_verify(MyLoss(beta=0.1))
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ganpo_core.components import Component


@pytest.fixture(scope="session")
def ganpo_verify() -> Callable[[Component], None]:
    """Checks that a component keeps the contract of its kind; raises AssertionError at the first broken promise."""
    # Imported here: the plugin loads in every run of pytest, and must not bring torch with it.
    from ganpo_core.testing import verify

    return verify
