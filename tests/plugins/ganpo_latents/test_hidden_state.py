"""Hidden states by hand: one row of three tokens (one of prompt, two of response) and one padding, width 2."""

from __future__ import annotations

import math

import pytest
import torch
from ganpo_latents.hidden_state import HiddenState
from torch import Tensor, nn

from ganpo_core import Layer, Source, TokenMap

TOKENS = TokenMap(
    valid=torch.tensor([[True, True, True, False]]),
    prompt=torch.tensor([[True, False, False, False]]),
    response=torch.tensor([[False, True, True, False]]),
)
LAST = torch.tensor([[[3.0, 4.0], [1.0, 1.0], [0.0, 2.0], [9.0, 9.0]]])
FIRST = torch.tensor([[[1.0, 3.0], [2.0, 2.0], [5.0, 7.0], [9.0, 9.0]]])
CAPTURED: dict[Source, Tensor] = {Layer(-1): LAST, Layer(1): FIRST}


def test_the_last_layer_at_every_valid_position_is_the_default() -> None:
    extractor = HiddenState()
    assert extractor.sources(nn.Module()) == (Layer(-1),)
    latents = extractor.extract(CAPTURED, TOKENS)
    assert latents.states is LAST  # nothing is copied
    assert torch.equal(latents.mask, TOKENS.valid)


def test_several_layers_are_concatenated_in_the_order_given() -> None:
    extractor = HiddenState(layer=(1, -1), norm="none")
    assert extractor.sources(nn.Module()) == (Layer(1), Layer(-1))
    assert extractor.extract(CAPTURED, TOKENS).states[0, 0].tolist() == [1.0, 3.0, 3.0, 4.0]


def test_positions_mask_the_others() -> None:
    """The prompt's token is the first, the response's are the second and third; padding is neither."""
    for positions, expected in (("response", [[False, True, True, False]]), ("prompt", [[True, False, False, False]])):
        extractor = HiddenState(positions=positions)  # type: ignore[arg-type]
        assert extractor.extract(CAPTURED, TOKENS).mask.tolist() == expected
        assert extractor.selected(TOKENS).tolist() == expected


def test_rms_norm_by_hand() -> None:
    """(3, 4): root mean square sqrt((9 + 16) / 2) = 3.5355339, so (0.8485281, 1.1313708)."""
    states = HiddenState(norm="rms").extract(CAPTURED, TOKENS).states
    assert states[0, 0].tolist() == pytest.approx([3 / math.sqrt(12.5), 4 / math.sqrt(12.5)], rel=1e-6)


def test_layer_norm_by_hand() -> None:
    """(1, 3): mean 2, deviation 1, so (-1, 1). Each layer is scaled on its own: (3, 4) becomes (-1, 1) as well."""
    states = HiddenState(layer=(1, -1), norm="layer").extract(CAPTURED, TOKENS).states
    assert states[0, 0].tolist() == pytest.approx([-1.0, 1.0, -1.0, 1.0], abs=1e-5)


def test_norms_survive_states_whose_squares_overflow_half_precision() -> None:
    states = torch.full((1, 4, 2), 6e4, dtype=torch.float16)
    normed = HiddenState(norm="rms").extract({Layer(-1): states}, TOKENS).states
    assert normed.dtype == torch.float16
    assert normed[0, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("layer", [1.0, 1.5, -0.5, (0, 2.5)])
def test_a_layer_that_is_neither_whole_nor_a_fraction_is_refused(layer: float) -> None:
    with pytest.raises(ValueError, match="neither a whole number nor a fraction between 0 and 1"):
        HiddenState(layer=layer)


def test_no_layer_and_a_layer_named_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="names no layer"):
        HiddenState(layer=())
    with pytest.raises(ValueError, match="names one layer twice"):
        HiddenState(layer=(2, 0.5, 2))
