"""DPO by hand: z = log pi/pi_ref of a response, rho = z_chosen - z_rejected."""

from __future__ import annotations

import math

import pytest
import torch
from ganpo_objectives.dpo import DPO
from torch import Tensor

from ganpo_core import PairLogps, TokenLogps


def tokens(*logps: float) -> TokenLogps:
    values = torch.tensor([logps], dtype=torch.float64, requires_grad=True)
    return TokenLogps(values, torch.ones(1, len(logps), dtype=torch.bool))


def one_pair() -> tuple[PairLogps, PairLogps]:
    """z_chosen = -3 - (-4) = 1, z_rejected = -4 - (-2) = -2, rho = 3."""
    policy = PairLogps(tokens(-1.0, -2.0), tokens(-2.0, -1.0, -1.0))
    reference = PairLogps(tokens(-1.5, -2.5), tokens(-1.0, -0.5, -0.5))
    return policy, reference


def token_gradients(objective: DPO, policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
    per_pair = objective.loss(policy, reference).per_pair
    chosen, rejected = torch.autograd.grad(per_pair.sum(), [policy.chosen.logps, policy.rejected.logps])
    return chosen, rejected


def test_loss_rewards_and_gradient_by_hand() -> None:
    """beta 0.1: margin 0.3, loss log(1 + e^-0.3) = log 1.7408182 = 0.5543552, rewards 0.1 and -0.2.

    Each token's gradient is -beta sigma(-0.3) = -0.1 * 0.4255575 on the chosen side, the opposite on the other.
    """
    policy, reference = one_pair()
    result = DPO(beta=0.1).loss(policy, reference)
    assert result.per_pair.tolist() == pytest.approx([0.5543552])
    assert result.chosen_reward.tolist() == pytest.approx([0.1])
    assert result.rejected_reward.tolist() == pytest.approx([-0.2])
    chosen, rejected = token_gradients(DPO(beta=0.1), policy, reference)
    assert chosen.tolist() == [pytest.approx([-0.04255575] * 2)]
    assert rejected.tolist() == [pytest.approx([0.04255575] * 3)]


def test_label_smoothing_by_hand() -> None:
    """e 0.1: 0.9 * 0.5543552 + 0.1 * (0.5543552 + 0.3) = 0.5843552.

    Gradient -0.1 * (0.9 * 0.4255575 - 0.1 * 0.5744425) = -0.03255575.
    """
    policy, reference = one_pair()
    objective = DPO(beta=0.1, label_smoothing=0.1)
    assert objective.loss(policy, reference).per_pair.tolist() == pytest.approx([0.5843552])
    chosen, _ = token_gradients(objective, policy, reference)
    assert chosen.tolist() == [pytest.approx([-0.03255575] * 2)]


def test_smoothed_loss_is_at_rest_at_the_log_odds_of_a_right_label() -> None:
    """The minimum lies at beta rho = log((1 - e) / e); e 0.1, beta 0.5: rho = 2 log 9."""
    rho = 2 * math.log(9)
    reference = PairLogps(tokens(-1.0 - rho), tokens(-1.0))
    chosen, rejected = token_gradients(
        DPO(beta=0.5, label_smoothing=0.1), PairLogps(tokens(-1.0), tokens(-1.0)), reference
    )
    assert chosen.item() == pytest.approx(0.0, abs=1e-12)
    assert rejected.item() == pytest.approx(0.0, abs=1e-12)


def test_policy_equal_to_reference_costs_log_2_and_is_pushed_with_half_of_beta() -> None:
    policy, _ = one_pair()
    assert DPO(beta=0.3).loss(policy, policy).per_pair.tolist() == pytest.approx([math.log(2)])
    reference = PairLogps(tokens(-1.0, -2.0), tokens(-2.0, -1.0, -1.0))
    chosen, rejected = token_gradients(DPO(beta=0.3), policy, reference)
    assert chosen.tolist() == [pytest.approx([-0.15] * 2)]
    assert rejected.tolist() == [pytest.approx([0.15] * 3)]


def test_a_constant_added_to_both_responses_changes_nothing() -> None:
    _, reference = one_pair()
    policy = PairLogps(tokens(-1.0, -7.0), tokens(-2.0, -1.0, -6.0))  # 5 nats less each
    assert DPO().loss(policy, reference).per_pair.tolist() == pytest.approx([0.5543552])


@pytest.mark.parametrize("smoothing", [0.5, 0.7])
def test_label_smoothing_of_a_half_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be below 0\.5"):
        DPO(label_smoothing=smoothing)
