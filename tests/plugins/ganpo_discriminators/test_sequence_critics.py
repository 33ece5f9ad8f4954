"""Critics that see tokens: pools by hand, order, neighbours, and masks in the middle of a row."""

from __future__ import annotations

import math

import pytest
import torch
from ganpo_discriminators.attention_pool import AttentionPool
from ganpo_discriminators.conv import Conv
from ganpo_discriminators.gru import GRU
from ganpo_discriminators.token_mlp import TokenMLP
from torch import Tensor, nn

STATES = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.tensor([[False, True, True, False, True, False], [True] * 6])


def built(discriminator: object) -> nn.Module:
    torch.manual_seed(1)
    module: nn.Module = discriminator.build(4)  # type: ignore[attr-defined]
    return module.double().eval()


@pytest.mark.parametrize("pool", ["mean", "max", "logsumexp"])
def test_token_mlp_pools_the_scores_of_tokens(pool: str) -> None:
    """Head and body at weight 1: a token's score is gelu(sum of its states)."""
    module = built(TokenMLP(hidden_dim=1, pool=pool))  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in module.parameters():
            weight.fill_(1.0) if weight.dim() == 2 else weight.zero_()
    scores = [nn.functional.gelu(STATES[0, position].sum()).item() for position in (1, 2, 4)]
    wanted = {
        "mean": sum(scores) / 3, "max": max(scores), "logsumexp": math.log(sum(math.exp(score) for score in scores)),
    }
    assert module(STATES, MASK)[0].item() == pytest.approx(wanted[pool])


@pytest.mark.parametrize("critic", [GRU(hidden_dim=3), Conv(hidden_dim=3, kernel_size=3, num_layers=1)], ids=repr)
def test_the_order_of_tokens_matters_to_sequence_critics(critic: object) -> None:
    module = built(critic)
    assert not torch.allclose(module(STATES, MASK)[1], module(STATES.flip(1), MASK)[1])


def test_the_order_of_tokens_does_not_matter_to_attention_pooling() -> None:
    module = built(AttentionPool(hidden_dim=3, num_queries=2))
    torch.testing.assert_close(module(STATES, MASK)[1], module(STATES.flip(1), MASK)[1])


def test_gru_reads_a_row_with_gaps_as_if_they_were_not_there() -> None:
    module = built(GRU(hidden_dim=3))
    dense = STATES[:1, [1, 2, 4]]
    torch.testing.assert_close(module(STATES[:1], MASK[:1]), module(dense, torch.ones(1, 3, dtype=torch.bool)))


def test_gru_is_torchs_own_bidirectional_layer() -> None:
    module = built(GRU(hidden_dim=3))
    both = nn.GRU(3, 3, batch_first=True, bidirectional=True).double()
    weights = {**module.ahead.state_dict(), **{f"{n}_reverse": w for n, w in module.back.state_dict().items()}}  # type: ignore[union-attr, operator]
    both.load_state_dict(weights)
    expected = module.head(both(module.project_in(STATES))[0].mean(1))[:, 0]  # type: ignore[operator]
    torch.testing.assert_close(module(STATES, torch.ones(2, 6, dtype=torch.bool)), expected)


def test_conv_sees_its_neighbours_and_no_further() -> None:
    """Kernel 3, one layer: the state at position 4 moves the features of positions 3 to 5 alone."""
    module = built(Conv(hidden_dim=3, kernel_size=3, num_layers=1))
    full = torch.ones(2, 6, dtype=torch.bool)
    changed = STATES.clone()
    changed[:, 4] += 1

    def features(states: Tensor) -> Tensor:
        found: Tensor = module.features(states, full)  # type: ignore[operator]
        return found

    moved = (features(changed) - features(STATES)).abs().sum(-1)[0] > 1e-12
    assert moved.tolist() == [False, False, False, True, True, True]


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size 4 is even"):
        Conv(kernel_size=4)
