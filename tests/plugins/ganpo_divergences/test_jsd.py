"""The Jensen-Shannon divergence by hand and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from ganpo_divergences.jsd import JSD

from ganpo_core import Scores


def scores(values: torch.Tensor) -> Scores:
    return Scores(values, torch.ones(len(values), dtype=torch.bool))


def test_losses_and_estimate_by_hand() -> None:
    """High (2, 0): (0.126928 + 0.693147) / 2 = 0.410038. Low (-1, 1): (0.313262 + 1.313262) / 2 = 0.813262.

    The sum is 1.223300, the estimate 0.693147 - 0.611650. Policy: -0.813262, or (1.313262 + 0.313262) / 2.
    """
    anchor, policy = scores(torch.tensor([2.0, 0.0])), scores(torch.tensor([-1.0, 1.0]))
    assert JSD().critic_loss(anchor, policy).item() == pytest.approx(1.223300, abs=1e-6)
    assert JSD().estimate(anchor, policy).item() == pytest.approx(0.081497, abs=1e-6)
    assert JSD().policy_loss(policy, anchor, "minimax").item() == pytest.approx(-0.813262, abs=1e-6)
    assert JSD().policy_loss(policy, anchor, "non_saturating").item() == pytest.approx(0.813262, abs=1e-6)


def test_a_silent_critic_shows_nothing() -> None:
    silent = scores(torch.zeros(3))
    assert JSD().critic_loss(silent, silent).item() == pytest.approx(2 * math.log(2))
    assert JSD().estimate(silent, silent).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("shift", "divergence"), [(0.25, 0.0078), (1.0, 0.1114), (2.0, 0.3368), (4.0, 0.6327)])
def test_best_critic_of_a_shifted_normal_reaches_the_divergence(shift: float, divergence: float) -> None:
    """The best critic of N(shift, 1) against N(0, 1) is the log of their ratio, shift x - shift^2 / 2."""
    levels = (torch.arange(20_001, dtype=torch.float64) + 0.5) / 20_001
    normal = math.sqrt(2) * torch.erfinv(2 * levels - 1)
    anchor, policy = (scores(shift * x - shift**2 / 2) for x in (normal + shift, normal))
    assert JSD().estimate(anchor, policy).item() == pytest.approx(divergence, abs=1e-4)
