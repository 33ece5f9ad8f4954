"""Critics of the mean latent, and the spectral norm of their layers."""

from __future__ import annotations

import pytest
import torch
from ganpo_discriminators.layers import linear_layer, masked_mean
from ganpo_discriminators.linear import Linear
from ganpo_discriminators.mlp import MLP, LipschitzGELU


def test_masked_mean_by_hand() -> None:
    """(1, 2) and (3, 6) of the first row: (2, 4); nothing of the second: zeros, even beside nan."""
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]], [[float("nan"), 0.0]] * 3])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(states, mask).tolist() == [[2.0, 4.0], [0.0, 0.0]]


def test_linear_score_by_hand() -> None:
    """Weight (3, 4) and bias 1 on the mean (2, 4): 6 + 16 + 1."""
    module = Linear().build(2)
    with torch.no_grad():
        module.get_parameter("head.weight").copy_(torch.tensor([[3.0, 4.0]]))
        module.get_parameter("head.bias").fill_(1.0)
    states = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert module(states, torch.ones(1, 2, dtype=torch.bool)).tolist() == [23.0]


def test_lipschitz_is_what_the_spectral_norm_gives() -> None:
    assert Linear(spectral_norm=True).lipschitz and MLP(spectral_norm=True).lipschitz
    assert not Linear().lipschitz and not MLP().lipschitz


def test_scaled_gelu_has_slope_at_most_1() -> None:
    """GELU's slope is largest at sqrt(2), 1.12904; divided by 1.13 it is 0.99915."""
    values = torch.linspace(-8, 8, 100_001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(LipschitzGELU()(values).sum(), values)
    assert 0.999 < slopes.abs().max().item() < 1.0


def test_a_layer_starts_xavier_uniform_without_bias() -> None:
    """Uniform within sqrt(6 / (30 + 20)) = 0.3464."""
    layer = linear_layer(30, 20)
    assert layer.bias.eq(0).all()
    assert 0.33 < layer.weight.abs().max().item() <= 0.34642


def test_spectral_norm_is_settled_at_build_and_then_left_alone() -> None:
    """15 power iterations come close to the largest singular value; forward passes iterate no further."""
    torch.manual_seed(0)
    layer = linear_layer(64, 32, spectral_norm=True)
    assert torch.linalg.matrix_norm(layer.weight, ord=2).item() == pytest.approx(1.0, abs=0.05)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(3, 64))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_spectral_norm_iterates_once_per_reading_in_training_mode() -> None:
    layer = linear_layer(64, 32, spectral_norm=True)
    layer.train()
    for _ in range(300):
        assert layer.weight.shape == (32, 64)
    layer.eval()
    assert torch.linalg.matrix_norm(layer.weight, ord=2).item() == pytest.approx(1.0, abs=1e-3)
