"""Pooled latents by hand: two rows of width 2; the second is all prompt."""

from __future__ import annotations

import torch
from ganpo_latents.pooled import Pooled

from ganpo_core import Layer, TokenMap

STATES = torch.tensor(
    [[[9.0, 9.0], [1.0, 2.0], [3.0, 6.0], [7.0, 7.0]], [[4.0, 0.0], [2.0, 2.0], [7.0, 7.0], [7.0, 7.0]]]
)
TOKENS = TokenMap(
    valid=torch.tensor([[True, True, True, False], [True, True, False, False]]),
    prompt=torch.tensor([[True, False, False, False], [True, True, False, False]]),
    response=torch.tensor([[False, True, True, False], [False, False, False, False]]),
)


def test_mean_by_hand() -> None:
    """Response tokens (1, 2) and (3, 6): mean (2, 4). The second row has none: zeros, masked."""
    latents = Pooled(positions="response").extract({Layer(-1): STATES}, TOKENS)
    assert latents.states.tolist() == [[[2.0, 4.0]], [[0.0, 0.0]]]
    assert latents.mask.tolist() == [[True], [False]]


def test_last_token_by_hand() -> None:
    """The last valid tokens are (3, 6) and (2, 2)."""
    latents = Pooled(pool="last_token").extract({Layer(-1): STATES}, TOKENS)
    assert latents.states.tolist() == [[[3.0, 6.0]], [[2.0, 2.0]]]
    assert latents.mask.tolist() == [[True], [True]]


def test_garbage_in_padding_never_reaches_a_pool() -> None:
    spoiled = STATES.masked_fill(~TOKENS.valid[..., None], float("nan"))
    for extractor in (Pooled(positions="response"), Pooled(pool="last_token", positions="response")):
        plain, other = (extractor.extract({Layer(-1): states}, TOKENS) for states in (STATES, spoiled))
        assert torch.equal(plain.states, other.states)


def test_the_mean_of_half_precision_states_is_wider() -> None:
    """4096 ones and a 3 have the mean 1.00049, which bfloat16 would round to 1."""
    states = torch.ones(1, 4097, 1, dtype=torch.bfloat16)
    states[0, 0] = 3.0
    everywhere = torch.ones(1, 4097, dtype=torch.bool)
    latents = Pooled().extract({Layer(-1): states}, TokenMap(everywhere, ~everywhere, everywhere))
    torch.testing.assert_close(latents.states, torch.tensor([[[4099 / 4097]]]))
