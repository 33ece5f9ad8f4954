"""The mean squared difference by hand."""

from __future__ import annotations

import pytest
import torch
from ganpo_divergences.mse import MSE

from ganpo_core import Latents

MASK = torch.tensor([[True, True, False]])
REFERENCE = Latents(torch.zeros(1, 3, 2), MASK)


def test_distance_and_gradient_by_hand() -> None:
    """Differences (1, 2) and (3, 0); padding counts for nothing: (1 + 4 + 9 + 0) / 4 = 3.5, slopes 2 d / 4."""
    states = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [100.0, 100.0]]], requires_grad=True)
    distance = MSE().distance(Latents(states, MASK), REFERENCE)
    assert distance.item() == 3.5
    (gradient,) = torch.autograd.grad(distance, states)
    assert gradient.tolist() == [[[0.5, 1.0], [1.5, 0.0], [0.0, 0.0]]]


def test_a_shift_costs_its_mean_square() -> None:
    """Every latent moved by Delta: |Delta|^2 / d, here (9 + 16) / 2."""
    reference = torch.randn(4, 3, 2, dtype=torch.float64)
    mask = torch.ones(4, 3, dtype=torch.bool)
    moved = Latents(reference + torch.tensor([3.0, -4.0]), mask)
    assert MSE().distance(moved, Latents(reference, mask)).item() == pytest.approx(12.5)


def test_the_distance_of_mean_latents_is_a_lower_bound() -> None:
    """|E h_policy - E h_reference|^2 / d is at most the mean square of paired differences."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 8, 5, 3, generator=generator)
    mask = torch.ones(8, 5, dtype=torch.bool)
    of_means = (policy.mean((0, 1)) - reference.mean((0, 1))).square().mean()
    assert of_means <= MSE().distance(Latents(policy, mask), Latents(reference, mask))


def test_nan_in_padding_reaches_neither_value_nor_gradient() -> None:
    states = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [float("nan"), 0.0]]], requires_grad=True)
    distance = MSE().distance(Latents(states, MASK), REFERENCE)
    (gradient,) = torch.autograd.grad(distance, states)
    assert distance.item() == 3.5
    assert gradient[0, 2].tolist() == [0.0, 0.0]


def test_small_differences_of_half_precision_latents_are_not_rounded_away() -> None:
    """2^-5 in each of 2 dimensions, as bfloat16 around 4: the square 2^-10 comes out exactly, in float32."""
    reference = torch.full((1, 3, 2), 4.0, dtype=torch.bfloat16)
    distance = MSE().distance(Latents(reference + 2**-5, MASK), Latents(reference, MASK))
    assert distance.dtype == torch.float32
    assert distance.item() == 2**-10
