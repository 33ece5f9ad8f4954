"""Where tokens lie in each layout, by hand: prompts of 2 and 1, chosen of 1 and 3, rejected of 2 and 1 tokens."""

from __future__ import annotations

import pytest
import torch

from ganpo_core.data import Packing, Segment, TokenPair, collate
from ganpo_core.data.layout import Layout

PAIRS = [TokenPair((1, 2), (3,), (4, 5), "a", 1), TokenPair((6,), (7, 8, 9), (10,), "a", 2)]
SINGLES = [TokenPair((1, 2), (3,), (), "a", 1), TokenPair((6,), (), (10,), "a", 2)]


def layout(packing: Packing, pairs: list[TokenPair] = PAIRS) -> Layout:
    return collate(pairs, 0, packing).layout


def test_a_shared_row_has_every_prompt_once() -> None:
    found = layout("shared")
    assert found.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert found.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 3, 1]]
    assert found.segments == (Segment(3, 2, 2), Segment(4, 1, 1))
    assert found.valid is None
    # Both first response tokens of a pair are predicted by the prompt's last: places 1 and 5.
    assert found.scored.tolist() == [1, 5, 6, 7, 1, 3, 5]
    assert found.targets.tolist() == [3, 7, 8, 9, 4, 5, 10]
    assert found.twins[0].tolist() == []


def test_a_packed_row_has_the_sequences_back_to_back() -> None:
    found = layout("packed")
    assert found.input_ids.tolist() == [[1, 2, 3, 6, 7, 8, 9, 1, 2, 4, 5, 6, 10]]
    assert found.position_ids.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]
    assert found.segments == (Segment(3), Segment(4), Segment(4), Segment(2))
    assert found.scored.tolist() == [1, 3, 4, 5, 8, 9, 11]
    assert [part.tolist() for part in found.twins] == [[0, 1, 3], [7, 8, 11]]


def test_padded_rows_are_the_batchs_own() -> None:
    batch = collate(PAIRS, 0)
    found = batch.layout
    assert torch.equal(found.input_ids, batch.input_ids) and found.moves is None and found.segments == ()
    assert found.valid is not None and torch.equal(found.valid, batch.tokens.valid)
    assert found.scored.tolist() == [1, 4, 5, 6, 9, 10, 12]
    assert [part.tolist() for part in found.twins] == [[0, 1, 4], [8, 9, 12]]


@pytest.mark.parametrize("packing", ["padded", "packed", "shared"])
def test_states_go_back_to_their_rows(packing: Packing) -> None:
    """Each token's state is its own id: 0 where there is no token, and the gradient counts how often a state is used."""
    batch = collate(PAIRS, 0, packing)
    states = batch.layout.input_ids[..., None].double().requires_grad_()
    rows = batch.layout.rows(states)
    assert rows.squeeze(-1).tolist() == batch.input_ids.tolist()
    rows.sum().backward()
    assert states.grad is not None
    uses = {"padded": [[1] * 4] * 4, "packed": [[1] * 13], "shared": [[2, 2, 1, 1, 1, 2, 1, 1, 1, 1]]}
    assert states.grad.squeeze(-1).tolist() == uses[packing]


@pytest.mark.parametrize("packing", ["padded", "packed", "shared"])
def test_values_of_response_tokens_go_to_left_aligned_rows(packing: Packing) -> None:
    found = layout(packing)
    assert found.responses(found.targets).tolist() == [[3, 0, 0], [7, 8, 9], [4, 5, 0], [10, 0, 0]]
    assert found.mask.int().tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_a_gradient_has_one_norm_in_every_layout() -> None:
    """Prompt states with gradients 1 and 2 in the two rows are one state with gradient 3: 9, not 1 + 4."""
    pair = [TokenPair((1,), (2,), (3,), "a", 1)]
    padded = torch.tensor([[[1.0], [5.0]], [[2.0], [7.0]]])
    shared, packed = torch.tensor([[[3.0], [5.0], [7.0]]]), padded.view(1, 4, 1)
    expected = 9 + 25 + 49
    gradients: list[tuple[Packing, torch.Tensor]] = [("padded", padded), ("packed", packed), ("shared", shared)]
    for packing, gradient in gradients:
        assert float(layout(packing, pair).distinct_square(gradient)) == expected


@pytest.mark.parametrize("packing", ["packed", "shared"])
def test_single_responses_are_sequences_by_themselves(packing: Packing) -> None:
    found = layout(packing, SINGLES)
    assert found.input_ids.tolist() == [[1, 2, 3, 6, 10]]
    assert found.segments == (Segment(3), Segment(2))
    assert found.responses(found.targets).tolist() == [[3], [0], [0], [10]]
    assert found.rows(found.input_ids[..., None]).squeeze(-1).tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0], [6, 10, 0]]


def test_padded_single_responses_run_without_their_empty_rows() -> None:
    found = layout("padded", SINGLES)
    assert found.input_ids.tolist() == [[1, 2, 3], [6, 10, 0]]
    assert found.rows(found.input_ids[..., None]).squeeze(-1).tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0], [6, 10, 0]]


@pytest.mark.parametrize("packing", ["packed", "shared"])
def test_mixed_single_responses_come_in_the_order_of_rows_or_pairs(packing: Packing) -> None:
    """A rejected one before a chosen one: each segment still holds one sequence, whatever the order of the row."""
    pairs = [SINGLES[1], SINGLES[0]]
    found = layout(packing, pairs)
    expected = {"packed": [[1, 2, 3, 6, 10]], "shared": [[6, 10, 1, 2, 3]]}
    assert found.input_ids.tolist() == expected[packing]
    starts = [segment.length for segment in found.segments]
    assert starts == ([3, 2] if packing == "packed" else [2, 3])
