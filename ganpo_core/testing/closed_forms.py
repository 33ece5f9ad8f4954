"""The best critic of two normal distributions, trained and read on their exact densities.

Shape suffixes: G grid points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganpo_core.components import Divergence
from ganpo_core.types import Latents, Scores

REACH, NUM_POINTS = 10.0, 2001
"""The grid's distance beyond both means, in standard deviations."""
NUM_STEPS, LEARNING_RATE = 300, 1e-2


@dataclass(frozen=True)
class WeightedScores(Scores):
    """Scores at the points of a grid, each counting as much as a density says."""

    weights: Tensor | None = None
    """[G], adding up to 1."""

    def average(self, per_row: Tensor) -> Tensor:
        assert self.weights is not None
        return (per_row * self.weights).sum()


def best_estimate(divergence: Divergence, shift: float) -> float:
    """What `divergence` reads off a small critic that 300 steps have taught to tell N(0, 1) from N(shift, 1).

    The reference is N(shift, 1). A divergence that rests on bounded slopes gets a linear critic of slope at most 1.
    """
    grid_G = torch.linspace(-REACH, REACH + shift, NUM_POINTS, dtype=torch.float64)
    weights = [_density(grid_G - mean) for mean in (shift, 0.0)]
    bounded = _is_bounded(divergence)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = nn.Linear(1, 1) if bounded else nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 1))
    critic = critic.double()
    optimizer = torch.optim.Adam(critic.parameters(), lr=LEARNING_RATE)

    def groups() -> list[Scores]:
        scores_G = critic(grid_G[:, None])[:, 0]
        valid = torch.ones(NUM_POINTS, dtype=torch.bool)
        means = [(scores_G * weight).sum() if divergence.baseline == "group_mean" else None for weight in weights]
        return [
            WeightedScores(scores_G, valid, mean, weights=weight) for mean, weight in zip(means, weights, strict=True)
        ]

    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        divergence.critic_loss(*groups()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if bounded:
            with torch.no_grad():
                for weight in critic.parameters():
                    weight.clamp_(-1, 1)
    with torch.no_grad():
        return float(divergence.estimate(*groups()))


def _density(distance_G: Tensor) -> Tensor:
    density_G = torch.exp(-distance_G.square() / 2)
    return density_G / density_G.sum()


def _is_bounded(divergence: Divergence) -> bool:
    """True where a penalty, a projection or a promise keeps the critic's slope within bounds."""
    critic = _Probe().double()
    before = critic.line.weight.clone()
    latents = Latents(torch.ones(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.bool))
    penalized = divergence.penalty(critic, latents, latents) is not None
    with torch.no_grad():
        divergence.project(critic)
    return divergence.needs_lipschitz or penalized or not torch.equal(before, critic.line.weight)


class _Probe(nn.Module):
    """A linear critic with a weight that no constraint would let stand."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        nn.init.constant_(self.line.weight, math.pi * 1e3)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.line(states)[..., 0].masked_fill(~mask, 0.0).sum(1)
        return scores
