"""The Wasserstein-1 distance by hand, and its three constraints."""

from __future__ import annotations

import pytest
import torch
from ganpo_discriminators.linear import Linear
from ganpo_discriminators.mlp import MLP
from ganpo_discriminators.transformer import Transformer
from ganpo_divergences.wasserstein import Wasserstein
from torch import Tensor, nn

from ganpo_core import Latents, Scores


def scores(values: Tensor) -> Scores:
    return Scores(values, torch.ones(len(values), dtype=torch.bool))


def latents(num_rows: int, lengths: list[int], width: int) -> Latents:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Latents(torch.randn(num_rows, max(lengths), width), mask)


def test_losses_and_estimate_by_hand() -> None:
    """High (2, 0) of mean 1, low (-1, 2) of mean 1/2."""
    anchor, policy = scores(torch.tensor([2.0, 0.0])), scores(torch.tensor([-1.0, 2.0]))
    assert Wasserstein().critic_loss(anchor, policy).item() == -0.5
    assert Wasserstein().estimate(anchor, policy).item() == 0.5
    assert Wasserstein().policy_loss(policy, anchor, "minimax").item() == -0.5
    assert Wasserstein().policy_loss(policy, anchor, "non_saturating").item() == -0.5


def test_the_best_linear_critic_of_slope_one_measures_a_shift_exactly() -> None:
    points = torch.randn(64, dtype=torch.float64)
    assert Wasserstein().estimate(scores(points + 1.7), scores(points)).item() == pytest.approx(1.7)


def test_gradient_penalty_by_hand() -> None:
    """A linear critic of weight (3, 4) has slope 5 in the mean latent at any length: 10 * (5 - 1)^2 = 160."""
    critic = Linear().build(2)
    with torch.no_grad():
        critic.head.weight.copy_(torch.tensor([[3.0, 4.0]]))  # type: ignore[union-attr, operator]
    anchor, policy = latents(3, [5, 1, 0], 2), latents(3, [5, 1, 0], 2)
    penalty = Wasserstein().penalty(critic, anchor, policy)
    assert penalty is not None
    assert penalty.item() == pytest.approx(160.0, rel=1e-5)
    assert Wasserstein(gradient_penalty=0.5).penalty(critic, anchor, policy).item() == pytest.approx(8.0, rel=1e-5)  # type: ignore[union-attr]


def test_gradient_penalty_trains_a_critic_with_attention() -> None:
    critic = Transformer(hidden_dim=8, num_heads=2, num_layers=1, max_positions=8).build(4).train()
    penalty = Wasserstein().penalty(critic, latents(3, [5, 2, 0], 4), latents(3, [5, 2, 0], 4))
    assert penalty is not None
    penalty.backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in critic.parameters() if weight.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_gradient_penalty_follows_the_global_generator() -> None:
    critic = MLP(hidden_dim=8).build(4)
    anchor, policy = latents(2, [3, 2], 4), latents(2, [3, 2], 4)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(Wasserstein().penalty(critic, anchor, policy))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])  # type: ignore[arg-type]


def test_the_other_constraints_have_no_penalty() -> None:
    critic, group = Linear().build(4), latents(2, [3, 2], 4)
    assert Wasserstein(constraint="clipping").penalty(critic, group, group) is None
    assert Wasserstein(constraint="spectral_norm").penalty(critic, group, group) is None


def test_clipping_bounds_every_weight_but_those_of_a_spectral_norm() -> None:
    critic = Transformer(hidden_dim=8, num_heads=2, num_layers=1, max_positions=8).build(4)
    before = {name: weight.clone() for name, weight in critic.named_parameters()}
    with torch.no_grad():
        Wasserstein(constraint="clipping", clip=0.01).project(critic)
        for name, weight in critic.named_parameters():
            if "parametrizations" in name:
                assert torch.equal(weight, before[name])
            else:
                assert torch.equal(weight, before[name].clamp(-0.01, 0.01))
    for divergence in (Wasserstein(), Wasserstein(constraint="spectral_norm")):
        plain = Linear().build(4)
        weight = plain.get_parameter("head.weight").clone()
        with torch.no_grad():
            divergence.project(plain)
        assert torch.equal(plain.get_parameter("head.weight"), weight)


def test_only_the_spectral_norm_rests_on_the_discriminator() -> None:
    assert Wasserstein(constraint="spectral_norm").needs_lipschitz
    assert not Wasserstein().needs_lipschitz
    assert not Wasserstein(constraint="clipping").needs_lipschitz


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "gelu"])
def test_a_trained_lipschitz_critic_measures_a_shift_from_below(activation: str) -> None:
    """N(0, 1) against N(2, 1) are 2 apart; a critic of spectrally normed layers finds 0.8 to 1.01 of it."""
    torch.manual_seed(0)
    critic = MLP(hidden_dim=32, activation=activation, spectral_norm=True).build(1).train()  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
    divergence = Wasserstein(constraint="spectral_norm")
    points, mask = torch.randn(256, 1, 1), torch.ones(256, 1, dtype=torch.bool)

    def judged(critic: nn.Module) -> tuple[Scores, Scores]:
        return scores(critic(points + 2.0, mask)), scores(critic(points, mask))

    for _ in range(150):
        optimizer.zero_grad()
        divergence.critic_loss(*judged(critic)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        distance = divergence.estimate(*judged(critic.eval())).item()
    assert 0.8 * 2 <= distance <= 1.01 * 2
