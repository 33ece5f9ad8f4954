"""Gradient descent on a shift of paired latents, with every divergence that sees one."""

from __future__ import annotations

import pytest
import torch
from ganpo_discriminators.mlp import MLP
from ganpo_divergences import ganpo_divergences
from torch import Tensor

from ganpo_core import Divergence, Latents, Scores

NUM_ROWS, NUM_STEPS = 128, 500
DIVERGENCES = ganpo_divergences()
SEE_SHIFTS = sorted(name for name, cls in DIVERGENCES.items() if cls.sees_shift)


def sample() -> Latents:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(NUM_ROWS, 1, 2, generator=generator, dtype=torch.float64)
    states = states + torch.tensor([2.0, 0.0], dtype=torch.float64)  # away from 0, around which cosines see no shift
    return Latents(states, torch.ones(NUM_ROWS, 1, dtype=torch.bool))


def descended(divergence: Divergence) -> float:
    """The length of a shift that starts at 2, after 500 steps; critics and shift move in turn."""
    torch.manual_seed(0)
    reference = sample()
    shift = torch.tensor([0.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=0.02, betas=(0.5, 0.9))
    critic = MLP(hidden_dim=32, activation="leaky_relu", spectral_norm=divergence.needs_lipschitz).build(2).double()
    teacher = torch.optim.Adam(critic.parameters(), lr=0.01, betas=(0.5, 0.9))

    def scores(states: Tensor) -> Scores:
        values = critic(states, reference.mask)
        mean = values.mean() if divergence.baseline == "group_mean" else None
        return Scores(values, torch.ones(NUM_ROWS, dtype=torch.bool), mean)

    for _ in range(NUM_STEPS):
        policy = Latents(reference.states + shift, reference.mask)
        if divergence.needs_critic:
            teacher.zero_grad()
            loss = divergence.critic_loss(scores(reference.states), scores(policy.states.detach()))
            extra = divergence.penalty(critic, reference, policy.detach())
            (loss if extra is None else loss + extra).backward()
            teacher.step()
            with torch.no_grad():
                divergence.project(critic)
            loss = divergence.policy_loss(scores(policy.states), scores(reference.states), "non_saturating")
        else:
            loss = divergence.distance(policy, reference)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(shift.detach().norm())


@pytest.mark.parametrize("name", SEE_SHIFTS)
def test_descent_brings_a_shift_of_2_below_a_fifth(name: str) -> None:
    assert descended(DIVERGENCES[name]()) < 0.2


def test_coral_has_no_gradient_on_a_shift() -> None:
    assert sorted(set(DIVERGENCES) - set(SEE_SHIFTS)) == ["coral"]
    reference, shift = sample(), torch.tensor([2.0, 0.0], dtype=torch.float64, requires_grad=True)
    distance = DIVERGENCES["coral"]().distance(Latents(reference.states + shift, reference.mask), reference)
    (force,) = torch.autograd.grad(distance, shift)
    assert distance < 1e-28
    assert force.abs().max() < 1e-14
