"""Every built-in discriminator keeps its contract; a new one is found here by itself."""

from __future__ import annotations

import pytest
import torch
from ganpo_discriminators import ganpo_discriminators
from ganpo_discriminators.attention_pool import AttentionPool
from ganpo_discriminators.conv import Conv
from ganpo_discriminators.gru import GRU
from ganpo_discriminators.linear import Linear
from ganpo_discriminators.mlp import MLP
from ganpo_discriminators.token_mlp import TokenMLP
from ganpo_discriminators.transformer import Transformer

from ganpo_core import Discriminator
from ganpo_core.testing import check_discriminator

VARIANTS = (
    Linear(spectral_norm=True),
    MLP(hidden_dim=16, spectral_norm=True),
    MLP(hidden_dim=16, spectral_norm=True, depth=3, activation="relu"),
    MLP(hidden_dim=16, spectral_norm=True, depth=2, activation="leaky_relu"),
    MLP(hidden_dim=16, depth=2, activation="relu"),
    TokenMLP(hidden_dim=16, spectral_norm=True),
    TokenMLP(hidden_dim=16, pool="max"),
    TokenMLP(hidden_dim=16, pool="logsumexp", depth=2),
    AttentionPool(hidden_dim=16, num_queries=3, spectral_norm=False),
    GRU(hidden_dim=8),
    Conv(hidden_dim=8, num_layers=2, kernel_size=3),
    Transformer(hidden_dim=16, num_heads=4, spectral_norm=False, max_positions=4, overlong="keep_last"),
    Transformer(hidden_dim=16, num_heads=2, num_layers=1, max_positions=4, overlong="keep_first", ffn_dim=8),
)

NUM_PARAMETERS = {
    (Linear(), 2304): 2_305,
    (Linear(), 4096): 4_097,
    (MLP(), 2304): 1_180_673,
    (MLP(), 4096): 2_098_177,
    (MLP(depth=2), 2304): 1_443_329,
    (MLP(depth=2), 4096): 2_360_833,
    (TokenMLP(), 2304): 1_180_673,
    (TokenMLP(depth=2), 4096): 2_360_833,
    (AttentionPool(), 2304): 1_443_841,
    (AttentionPool(), 4096): 2_361_345,
    (GRU(), 2304): 1_380_097,
    (GRU(), 4096): 1_838_849,
    (Conv(), 2304): 1_639_937,
    (Conv(), 4096): 2_098_689,
    (Transformer(), 2304): 8_796_673,
    (Transformer(num_layers=4), 2304): 15_101_441,
    (Transformer(), 4096): 9_714_177,
    (Transformer(num_layers=4), 4096): 16_018_945,
}


@pytest.mark.parametrize("name", sorted(ganpo_discriminators()))
def test_discriminator_keeps_its_contract(name: str) -> None:
    check_discriminator(ganpo_discriminators()[name]())


@pytest.mark.parametrize("discriminator", VARIANTS, ids=repr)
def test_discriminator_keeps_its_contract_with_other_options(discriminator: Discriminator) -> None:
    check_discriminator(discriminator)


@pytest.mark.parametrize(("discriminator", "latent_dim"), NUM_PARAMETERS, ids=str)
def test_number_of_parameters(discriminator: Discriminator, latent_dim: int) -> None:
    module = discriminator.build(latent_dim)
    assert sum(p.numel() for p in module.parameters()) == NUM_PARAMETERS[discriminator, latent_dim]
    assert all(p.requires_grad for p in module.parameters())


def test_every_discriminator_has_its_number_of_parameters_tested() -> None:
    assert {type(discriminator) for discriminator, _ in NUM_PARAMETERS} == set(ganpo_discriminators().values())


@pytest.mark.parametrize("discriminator", [*VARIANTS, Linear(), MLP(), Transformer()], ids=repr)
def test_a_row_without_a_valid_position_scores_0(discriminator: Discriminator) -> None:
    states, mask = torch.full((2, 3, 4), float("nan")), torch.zeros(2, 3, dtype=torch.bool)
    module = discriminator.build(4).train()
    assert module(states, mask).tolist() == [0.0, 0.0]
    assert not module.features(states, mask).isnan().any()  # type: ignore[operator]
