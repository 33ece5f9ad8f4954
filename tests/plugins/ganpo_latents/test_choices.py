"""Which positions are read, how layers are combined, and what projections do: by hand, on one row."""

from __future__ import annotations

import pytest
import torch
from ganpo_latents.hidden_state import HiddenState
from ganpo_latents.pooled import Pooled
from torch import Tensor, nn

from ganpo_core import Layer, Source, TokenMap

VALID = torch.tensor([[True] * 8 + [False] * 2])
PROMPT = torch.arange(10)[None] < 3
TOKENS = TokenMap(VALID, PROMPT, VALID & ~PROMPT, shared=torch.arange(10)[None] < 5)
"""Three tokens of prompt, five of response, of which the two rows of the pair share the first two; two of padding."""
NUMBERS = torch.arange(10, dtype=torch.float64)[None, :, None].expand(1, 10, 4) + torch.arange(4) / 10
CAPTURED: dict[Source, Tensor] = {Layer(-1): NUMBERS, Layer(1): NUMBERS + 100}


def places(**options: object) -> list[int]:
    """The positions that are read, told by the states themselves, which count them."""
    latents = HiddenState(**options).extract(CAPTURED, TOKENS)  # type: ignore[arg-type]
    return [int(value) for value in latents.states[0, :, 0][latents.mask[0]].tolist()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"positions": "distinct"}, [5, 6, 7]),
        ({"drop_last": True}, [0, 1, 2, 3, 4, 5, 6]),
        ({"positions": "response", "drop_last": True}, [3, 4, 5, 6]),
        ({"every": 3}, [0, 3, 6]),
        ({"positions": "response", "every": 2}, [3, 5, 7]),
        ({"num_positions": 4}, [1, 3, 5, 7]),
        ({"num_positions": 3}, [2, 5, 7]),  # where k * 3 / 8 passes 1, 2 and 3
        ({"positions": "response", "num_positions": 20}, [3, 4, 5, 6, 7]),
        ({"every": 2, "num_positions": 2}, [2, 6]),
    ],
    ids=str,
)
def test_positions_read(options: dict[str, object], expected: list[int]) -> None:
    assert places(**options) == expected


def test_thinned_rows_are_short() -> None:
    assert HiddenState(every=3).extract(CAPTURED, TOKENS).states.shape == (1, 4, 4)
    assert HiddenState(num_positions=2).extract(CAPTURED, TOKENS).states.shape == (1, 2, 4)


def test_a_thinned_row_of_one_is_not_taken_for_a_pooled_one() -> None:
    latents = HiddenState(every=50).extract(CAPTURED, TOKENS)
    assert latents.mask.tolist() == [[True, False]]
    assert latents.states[0, 0, 0] == 0


def test_nothing_is_distinct_where_both_responses_agree() -> None:
    same = TokenMap(VALID, PROMPT, VALID & ~PROMPT, shared=VALID)
    assert not HiddenState(positions="distinct").extract(CAPTURED, same).mask.any()


@pytest.mark.parametrize(
    ("pool", "expected"), [("mean", 3.5), ("last_token", 7.0), ("first_response", 3.0), ("eos", 7.0)]
)
def test_pools_of_a_row(pool: str, expected: float) -> None:
    latents = Pooled(pool=pool).extract(CAPTURED, TOKENS)  # type: ignore[arg-type]
    assert latents.states[0, 0, 0].item() == expected
    prompt_only = Pooled(pool=pool, positions="prompt").extract(CAPTURED, TOKENS)  # type: ignore[arg-type]
    assert prompt_only.mask.item() == (pool in ("mean", "last_token"))


def test_layers_are_averaged_mixed_or_put_side_by_side() -> None:
    both = {"layer": (1, -1), "norm": "none"}
    assert HiddenState(combine="mean", **both).extract(CAPTURED, TOKENS).states[0, 0, 0] == 50.0  # type: ignore[arg-type]
    mix = HiddenState(combine="mix", **both)  # type: ignore[arg-type]
    states = mix.extract(CAPTURED, TOKENS).states
    assert states.shape == (1, 10, 8)
    module = mix.build(8)
    assert module is not None
    assert module.double()(states)[0, 0].tolist() == pytest.approx([50.0, 50.1, 50.2, 50.3])
    with torch.no_grad():
        next(iter(module.parameters())).copy_(torch.tensor([3.0, 1.0]).log())  # three quarters of the first
    assert module(states)[0, 0, 0].item() == pytest.approx(75.0)


def test_several_layers_are_scaled_to_one_size_unless_told_otherwise() -> None:
    """RMS of (0, .1, .2, .3) + 100 is 100.15: the first layer comes back near 1."""
    states = HiddenState(layer=(1, -1)).extract(CAPTURED, TOKENS).states
    assert states[0, 0, :4].square().mean().item() == pytest.approx(1.0, rel=1e-6)
    assert states[0, 7, 4:].square().mean().item() == pytest.approx(1.0, rel=1e-6)
    assert torch.equal(HiddenState().extract(CAPTURED, TOKENS).states, NUMBERS)


def test_fixed_projections_are_orthonormal_and_always_the_same() -> None:
    wide = {Layer(-1): torch.eye(6, dtype=torch.float64)[None].repeat(1, 1, 1)}
    tokens = TokenMap(*(torch.ones(1, 6, dtype=torch.bool),) * 3)
    matrix = HiddenState(project="fixed", projection_dim=3).extract(wide, tokens).states[0]
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(3, dtype=torch.float64))
    again = HiddenState(project="fixed", projection_dim=3).extract(wide, tokens).states[0]
    assert torch.equal(matrix, again)
    assert HiddenState(project="fixed", projection_dim=99).extract(wide, tokens).states.shape[-1] == 6


def test_a_learned_projection_has_the_width_asked_for() -> None:
    module = HiddenState(project="learned", projection_dim=2).build(6)
    assert module is not None
    assert module(torch.zeros(1, 3, 6)).shape == (1, 3, 2)
    assert [weight.shape for weight in module.parameters()] == [(2, 6)]


def test_inner_layers_can_be_read_through_the_final_norm() -> None:
    extractor = HiddenState(layer=(1, 2), final_norm=True)
    assert extractor.sources(nn.Module()) == (Layer(1, final_norm=True), Layer(2, final_norm=True))


def test_a_learned_mix_and_a_fixed_projection_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="combine: mix is learned"):
        HiddenState(layer=(1, 2), combine="mix", project="fixed")
