"""SimPO by hand."""

from __future__ import annotations

import math

import pytest
import torch
from ganpo_objectives.simpo import SimPO

from ganpo_core import PairLogps, TokenLogps


def tokens(*logps: float) -> TokenLogps:
    values = torch.tensor([logps], dtype=torch.float64, requires_grad=True)
    return TokenLogps(values, torch.ones(1, len(logps), dtype=torch.bool))


def test_loss_rewards_and_gradient_by_hand() -> None:
    """beta 2, gamma 2 * 0.5 = 1. Means -1.5 and -2, rewards -3 and -4, margin 1: softplus(1 - 1) = log 2.

    Gradients: -beta / 2 tokens * sigma(0) = -1/2 on chosen tokens, beta / 3 * 1/2 = 1/3 on rejected ones.
    """
    policy = PairLogps(tokens(-1.0, -2.0), tokens(-2.0, -1.0, -3.0))
    result = SimPO(beta=2.0, gamma_ratio=0.5).loss(policy, None)
    assert result.per_pair.tolist() == pytest.approx([math.log(2)])
    assert result.chosen_reward.tolist() == pytest.approx([-3.0])
    assert result.rejected_reward.tolist() == pytest.approx([-4.0])
    chosen, rejected = torch.autograd.grad(result.per_pair.sum(), [policy.chosen.logps, policy.rejected.logps])
    assert chosen.tolist() == [pytest.approx([-0.5, -0.5])]
    assert rejected.tolist() == [pytest.approx([1 / 3] * 3)]


def test_repeating_a_response_changes_nothing() -> None:
    """The reward is a mean: (-1, -2) and (-1, -2, -1, -2) earn the same."""
    short = SimPO().loss(PairLogps(tokens(-1.0, -2.0), tokens(-2.0)), None)
    long = SimPO().loss(PairLogps(tokens(-1.0, -2.0, -1.0, -2.0), tokens(-2.0)), None)
    assert short.per_pair.tolist() == pytest.approx(long.per_pair.tolist())


def test_no_reference_is_needed() -> None:
    assert not SimPO.needs_reference
