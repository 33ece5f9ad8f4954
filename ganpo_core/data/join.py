"""What models are given of the images of several prompts, joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class ImageInputs:
    """The images of B prompts, as the processor makes them for each by itself."""

    inputs: tuple[Mapping[str, Tensor], ...]
    """By argument of the model; {} for a prompt without images."""
    token_types: Mapping[str, str]
    """As in PromptImages."""

    @property
    def any(self) -> bool:
        """Whether there is an image at all."""
        return any(self.inputs)

    def joined(self, order: Sequence[int]) -> dict[str, Tensor]:
        """By argument, the tensors of these prompts one after another, padded with 0 to the largest.

        Processors do the same when they are given several prompts: images, patches or prompts come first in every
        tensor, and models tell padding by sizes, masks or zeros.
        """
        import torch

        held = [self.inputs[index] for index in order if self.inputs[index]]
        names = dict.fromkeys(name for inputs in held for name in inputs)
        found = {}
        for name in names:
            parts = [inputs[name] for inputs in held if name in inputs]
            largest = [max(part.shape[dim] for part in parts) for dim in range(1, parts[0].dim())]
            found[name] = torch.cat([_padded(part, largest) for part in parts])
        return found

    def to(self, device: torch.device | str) -> ImageInputs:
        """The same on another device."""
        moved = tuple({name: value.to(device) for name, value in inputs.items()} for inputs in self.inputs)
        return ImageInputs(moved, self.token_types)


def _padded(part: Tensor, largest: Sequence[int]) -> Tensor:
    if list(part.shape[1:]) == list(largest):
        return part
    found = part.new_zeros((len(part), *largest))
    found[tuple(slice(size) for size in part.shape)] = part
    return found
