"""Where the losses are least on a bandit with three responses: by hand, found again by L-BFGS."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objective_samples import from_ratios, objective, per_pair
from torch import Tensor

REWARDS = torch.tensor([0.0, 0.7, 1.5], dtype=torch.float64)
WINNERS, LOSERS = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 2, 0, 2, 0, 1])


def preferences(flipped: float = 0.0) -> Tensor:
    """[6], p(winner > loser) of a Bradley-Terry model, seen through labels of which some are wrong."""
    right = torch.sigmoid(REWARDS[WINNERS] - REWARDS[LOSERS])
    return (1 - flipped) * right + flipped * (1 - right)


def optimum(name: str, weights: Tensor, **options: Any) -> Tensor:
    """The log-ratios, less their mean, that minimise the loss over all ordered pairs with these weights."""
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    made = objective(name, **options)
    optimizer = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weights * per_pair(made, *from_ratios(z[WINNERS], z[LOSERS]))).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (z - z.mean()).detach()


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_dpo_recovers_the_rewards(beta: float) -> None:
    close(beta * optimum("dpo", preferences(), beta=beta), REWARDS - REWARDS.mean())


def test_exponential_cost_recovers_half_of_them() -> None:
    found = optimum("gpo", preferences(), beta=1.0, surrogate="exponential")
    close(found, (REWARDS - REWARDS.mean()) / 2)


def test_robust_dpo_recovers_them_from_wrong_labels_and_dpo_does_not() -> None:
    weights = preferences(flipped=0.1)
    wanted = REWARDS - REWARDS.mean()
    close(optimum("robust", weights, beta=1.0, label_smoothing=0.1), wanted)
    shrunk = optimum("dpo", weights, beta=1.0)
    assert (shrunk[2] - shrunk[0]).item() / 1.5 == pytest.approx(0.76, abs=0.02)


def test_ipo_recovers_how_often_a_response_wins() -> None:
    """z_i - mean = (p(y_i beats a uniform response) - mean) / tau, the response itself included as a tie."""
    tau = 0.3
    beats = torch.sigmoid(REWARDS[:, None] - REWARDS[None]).mean(1)
    close(optimum("ipo", preferences(), beta=tau, reduction="sum"), (beats - beats.mean()) / tau)


def test_sppo_draws_log_ratios_to_win_rates() -> None:
    """With p = 1 for the winner of each pair: z_i = (share of pairs won - 1/2) / beta on average over its pairs."""
    beta = 0.5
    weights = preferences()
    won = torch.stack([weights[i == WINNERS].sum() for i in range(3)])
    lost = torch.stack([weights[i == LOSERS].sum() for i in range(3)])
    z = (won - lost) / (won + lost) / (2 * beta)
    close(optimum("sppo", weights, beta=beta), z - z.mean())
