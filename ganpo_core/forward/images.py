"""States of images, brought to the positions of their tokens.

Shape suffixes: R rows and L positions as the model is given them, I images, P states of an image, M image tokens, H width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ganpo_core.anatomy import base_model
from ganpo_core.errors import TrainingError
from ganpo_core.types import ImageFeatures, Layer, Source


class UnplacedStatesError(TrainingError):
    """States of images that cannot be told apart by the tokens of the images."""

    def __init__(self, source: Source, shape: tuple[int, ...], num_tokens: int) -> None:
        self.source = source
        super().__init__(
            f"the states of {source}, {shape}, cannot be brought to {num_tokens} image tokens: they are not as many, or "
            "equally many times more, for each image, as where a model cuts images into tiles, leaves their padding out and "
            "puts a mark at the end of each line; use `projector` or `image_positions`, or another module"
        )


def is_of_images(source: Source, model: nn.Module) -> bool:
    """Whether the states of a source are of images, and not of the language model's positions."""
    if isinstance(source, Layer | ImageFeatures):
        return isinstance(source, ImageFeatures)
    base = cast(Any, base_model(model))
    try:
        module = base.get_submodule(source.path)
    except AttributeError:
        return False  # a path that the model does not have is the capture's to refuse
    return all(module is not inner for inner in (*base.get_decoder().modules(), base.get_output_embeddings()))


def at_image_tokens(source: Source, states: Tensor | None, image_RL: Tensor, width: int) -> Tensor:
    """[R, L, H]: states of images at the positions of their tokens, 0 elsewhere.

    `states` is None for a batch without images: then there is nothing but zeros, of `width`, which carry no gradient.
    """
    if states is None:
        grad = torch.is_grad_enabled()
        return torch.zeros((*image_RL.shape, width), device=image_RL.device, requires_grad=grad)
    num_tokens = int(image_RL.sum())
    states_MH = _for_each_token(states, num_tokens)
    if states_MH is None:
        raise UnplacedStatesError(source, tuple(states.shape), num_tokens)
    places_M = image_RL.flatten().nonzero().squeeze(1)
    found = states.new_zeros((image_RL.numel(), states.shape[-1])).index_copy(0, places_M, states_MH)
    return found.view(*image_RL.shape, -1)


def _for_each_token(states: Tensor, num_tokens: int) -> Tensor | None:
    """[M, H]: the mean of equally many states in a row for each token; None where that cannot be.

    What exceeds a whole number of states for each token of an image comes first in towers: class tokens, left out.
    """
    num_images, num_states = (states.shape[0], states.shape[1]) if states.dim() == 3 else (1, states.shape[0])
    if not num_tokens or num_tokens % num_images:
        return None
    num_each = num_tokens // num_images
    merged = num_states // num_each
    surplus = num_states - merged * num_each
    if not merged or (surplus and (states.dim() != 3 or surplus >= num_each)):
        return None
    kept_IPH = states.reshape(num_images, num_states, -1)[:, surplus:]
    return kept_IPH.reshape(num_tokens, merged, -1).mean(1)
