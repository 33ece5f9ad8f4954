"""FlexAttention's rule and its forward pass on a CPU, where it has no backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from ganpo_core.data import Packing, PairBatch, TokenPair, collate
from ganpo_core.errors import TrainingError
from ganpo_core.forward import response_pass
from ganpo_core.forward.attention import BLOCKS, use_segment_attention
from ganpo_core.forward.blocks import attend_by_blocks, sees, token_places

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def test_the_rule_by_hand() -> None:
    """[p p | c c | r]: prompt and chosen causally; the rejected token sees the prompt and itself, not the chosen."""
    layout = collate([TokenPair((5, 6), (7, 8), (9,), "a", 1)], 0, "shared").layout
    index = torch.arange(5)
    zero = torch.tensor(0)
    seen = sees(token_places(layout), None)(zero, zero, index[:, None], index[None])
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]


def test_a_window_is_measured_in_positions() -> None:
    """The rejected token stands at position 2, five places into the row: a window of 2 lets it see position 1 and 2."""
    layout = collate([TokenPair((5, 6), (7, 8), (9,), "a", 1)], 0, "shared").layout
    index = torch.arange(5)
    zero = torch.tensor(0)
    seen = sees(token_places(layout), 2)(zero, zero, index[:, None], index[None])
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


def test_sequences_of_one_row_do_not_see_each_other() -> None:
    layout = collate([TokenPair((5,), (7,), (9, 4), "a", 1)], 0, "packed").layout
    index = torch.arange(5)
    zero = torch.tensor(0)
    seen = sees(token_places(layout), None)(zero, zero, index[:, None], index[None])
    assert seen.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize("packing", ["packed", "shared"])
@torch.no_grad()
def test_log_probabilities_are_those_of_padded_rows(
    packing: Packing,
    architecture: str,
    make_model: Callable[..., nn.Module],
    ragged_batches: dict[Packing, PairBatch],
) -> None:
    model = make_model(architecture)
    expected = response_pass(model, model, ragged_batches["padded"]).logps
    use_segment_attention(model, BLOCKS)
    found = response_pass(model, model, ragged_batches[packing]).logps
    assert expected is not None and found is not None
    torch.testing.assert_close(found.chosen.logps, expected.chosen.logps, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.rejected.logps, expected.rejected.logps, rtol=0, atol=1e-5)


def test_dropout_in_attention_is_refused() -> None:
    layout = collate([TokenPair((5, 6), (7, 8), (9,), "a", 1)], 0, "shared").layout
    states = torch.zeros(1, 2, 5, 16)
    with pytest.raises(TrainingError, match="FlexAttention has no dropout"):
        attend_by_blocks(states, states, states, layout, 1.0, None, None, 0.1)
