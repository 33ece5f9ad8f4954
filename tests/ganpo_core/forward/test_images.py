"""States of images at the positions of their tokens, by hand."""

from __future__ import annotations

import pytest
import torch

from ganpo_core.errors import TrainingError
from ganpo_core.forward.images import at_image_tokens
from ganpo_core.types import ImageFeatures

SOURCE = ImageFeatures("tower")
IMAGE = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]]).bool()
"""Two images of two tokens, in two rows."""


def placed(*states: float, shape: tuple[int, ...]) -> list[float]:
    found = at_image_tokens(SOURCE, torch.tensor(states, dtype=torch.float32).view(*shape), IMAGE, 0)
    assert found.shape == (2, 4, 1)
    assert not found[~IMAGE].any()
    return found[IMAGE].flatten().tolist()


def test_as_many_states_as_tokens_go_in_their_order() -> None:
    assert placed(1, 2, 3, 4, shape=(4, 1)) == [1, 2, 3, 4]
    assert placed(1, 2, 3, 4, shape=(2, 2, 1)) == [1, 2, 3, 4]


def test_several_states_for_a_token_are_averaged() -> None:
    """(1 + 3) / 2, (5 + 7) / 2 and so on."""
    assert placed(1, 3, 5, 7, 2, 4, 6, 8, shape=(8, 1)) == [2, 6, 3, 7]
    assert placed(1, 3, 5, 7, 2, 4, 6, 8, shape=(2, 4, 1)) == [2, 6, 3, 7]


def test_a_class_token_comes_first_and_is_left_out() -> None:
    assert placed(99, 1, 2, 99, 3, 4, shape=(2, 3, 1)) == [1, 2, 3, 4]


@pytest.mark.parametrize("shape", [(5, 1), (3, 2, 1), (2, 1, 1), (3, 1)])
def test_states_that_are_no_multiple_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match="cannot be brought to 4 image tokens"):
        at_image_tokens(SOURCE, torch.zeros(shape), IMAGE, 0)


def test_a_batch_without_images_has_zeros() -> None:
    none = at_image_tokens(SOURCE, None, torch.zeros(2, 4).bool(), 5)
    assert none.shape == (2, 4, 5) and none.requires_grad and not none.any()
    with torch.no_grad():
        assert not at_image_tokens(SOURCE, None, IMAGE, 5).requires_grad
