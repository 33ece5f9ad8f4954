"""The work and the memory of what sees, counted on its own code with images of the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganpo_core.anatomy import base_model, is_composite
from ganpo_core.config import ModelConfig
from ganpo_core.data import Packing, PairDataset
from ganpo_core.data.images import PromptImages
from ganpo_core.models import DTYPES, freeze_parts, load_skeleton
from ganpo_core.plan.measure import count_flops, saved_bytes, unperformed
from ganpo_core.vision import image_features, seeing_weights

TRIED = 8
"""Prompts whose images are counted, beside the one with the most pixels."""
INNER_STATES = frozenset({"last_hidden_state", "hidden_states", "attentions"})
"""What models tell of their image features beside what the language model is given."""


@dataclass(frozen=True)
class Sight:
    """What becomes of images before the language model."""

    forward: float = 0.0
    """FLOPs of a pass over the images of a mean prompt; those without images count."""
    backward: float = 0.0
    saved: float = 0.0
    """Bytes that the backward pass needs of the images of the prompt with the most pixels."""
    saved_in_checkpoints: float = 0.0
    """The same where activations are computed again."""

    def times(self, layout: Packing) -> int:
        """How often the images of a pair are passed: where both responses share a prompt, once."""
        return 1 if layout == "shared" else 2


@dataclass(frozen=True)
class Views:
    """Some of the data's prompts with images, and how many prompts have some."""

    prompts: tuple[PromptImages, ...] = ()
    """The first has the most pixels."""
    share: float = 0.0

    @classmethod
    def of(cls, pairs: PairDataset) -> Views:
        """Prompts spread evenly over the data."""
        if not pairs.with_images:
            return cls()
        every = [prompt for prompt in pairs.images if prompt is not None and prompt.count]
        return cls((max(every, key=_num_pixels), *every[:: -(-len(every) // TRIED)]), len(every) / len(pairs))


def _num_pixels(images: PromptImages) -> int:
    return sum(image.size[0] * image.size[1] for image in images.images)


def planned_model(config: ModelConfig, processor: Any = None) -> Any:
    """The policy without values, what `model.freeze` names frozen."""
    model = load_skeleton(config)
    if is_composite(model):
        _materialize(model)
    if config.freeze:
        with unperformed():
            freeze_parts(model, config, processor)
    return model


def plan_sight(config: ModelConfig, model: nn.Module, views: Views) -> Sight:
    """Count `views` on a `planned_model`; matrix products are not computed, whatever depends on sizes is."""
    if not views.prompts:
        return Sight()
    counted = [_counted(config, model, prompt.inputs()) for prompt in views.prompts]
    spread = counted[1:]  # the largest is there for its memory alone
    return Sight(
        views.share * sum(one.forward for one in spread) / len(spread),
        views.share * sum(one.backward for one in spread) / len(spread),
        counted[0].saved,
        counted[0].saved_in_checkpoints,
    )


def _counted(config: ModelConfig, model: nn.Module, pixels: dict[str, Tensor]) -> Sight:
    base: Any = base_model(model)
    sighted = seeing_weights(base)
    weights = [weight for weight in base.parameters() if id(weight) in sighted]
    trained = [weight for weight in weights if weight.requires_grad]

    def look() -> list[Tensor]:
        found = image_features(base, pixels)
        return _tensors([value for name, value in found.items() if name not in INNER_STATES])

    with torch.random.fork_rng(devices=[]), unperformed():
        outputs: list[Tensor] = []
        forward = count_flops(lambda: outputs.extend(look()))
        outputs = [output for output in outputs if output.requires_grad]
        if not (trained and outputs):
            return Sight(forward)
        total = torch.stack([output.sum() for output in outputs]).sum()
        backward = count_flops(lambda: torch.autograd.grad(total, trained, allow_unused=True))
        half = torch.autocast("cpu", torch.bfloat16, enabled=DTYPES[config.dtype] == torch.bfloat16)
        with half, _Layers(base, sighted) as layers:
            saved, _ = saved_bytes(look, [*weights, *base.buffers()])
    return Sight(forward, backward, saved, layers.bytes + saved / layers.count)


class _Layers:
    """What the layers of the tower hand to each other during one pass."""

    def __init__(self, base: nn.Module, sighted: set[int]) -> None:
        lists = [module for module in base.modules() if isinstance(module, nn.ModuleList)]
        own = [list(module) for module in lists if all(id(weight) in sighted for weight in module.parameters())]
        self._layers: list[nn.Module] = max(own, key=len, default=[])
        self.count = max(len(self._layers), 1)
        self.bytes = 0
        self._stop: list[Callable[[], None]] = []

    def __enter__(self) -> _Layers:
        self._stop = [layer.register_forward_hook(self._add).remove for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for stop in self._stop:
            stop()

    def _add(self, _module: nn.Module, _inputs: object, output: Any) -> None:
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in _tensors([output])[:1])


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _materialize(model: nn.Module) -> None:
    """Give what sees weights without content, which take memory once they are written to, and buffers of zeros."""
    base: Any = base_model(model)
    sighted = seeing_weights(base)
    inside = {id(module) for module in base.get_decoder().modules()}
    for module in base.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) in sighted:
                module._parameters[name] = nn.Parameter(torch.empty_like(weight, device="cpu"), weight.requires_grad)
        if id(module) not in inside:
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.zeros_like(buffer, device="cpu")
