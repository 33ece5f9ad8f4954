"""Hidden states, read by hooks that exist only while one forward pass runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ganpo_core.anatomy import base_model, output_layer, text_config
from ganpo_core.errors import ConfigError, TrainingError
from ganpo_core.suggest import did_you_mean
from ganpo_core.types import ImageFeatures, Layer, Source
from ganpo_core.vision import image_model


@contextmanager
def capture(
    model: nn.Module, sources: Sequence[Source], optional: Collection[Source] = ()
) -> Iterator[dict[Source, Tensor]]:
    """Collect the states of `sources`, [N, S, H] each, during one forward pass inside the block.

    The hooks are gone before the backward pass, so gradient checkpointing, which runs layers again, does not fire
    them twice. `optional` sources need not run. Raises ConfigError for a source that the model does not have.
    """
    states: dict[Source, Tensor] = {}
    with ExitStack() as hooks:
        for source in sources:
            hooks.enter_context(_hook(base_model(model), source, states))
        yield states
    missing = [source for source in sources if source not in states and source not in optional]
    if missing:
        raise TrainingError(f"{missing[0]} did not run during the forward pass; is it part of the language model?")


@contextmanager
def head_input(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What the output layer would read in one forward pass, [R, L, H], under "states"; it makes logits of one position."""
    found: dict[str, Tensor] = {}

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not inputs:
            raise TrainingError(f"{type(base_model(model)).__name__} hands states to its output layer by name")
        found["states"] = inputs[0]
        return (inputs[0][:, :1], *inputs[1:])

    layer = output_layer(model)
    assert layer is not None
    handle = layer.register_forward_pre_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
    if not found:
        raise TrainingError(f"{type(base_model(model)).__name__} makes logits without its output layer")


def resolve_layer(index: int | float, num_layers: int) -> int:
    """0 for the embeddings ... `num_layers` for what the head reads. Raises ConfigError outside of that."""
    if isinstance(index, float) and not index.is_integer():
        if not 0 < index < 1:
            raise ConfigError(f"latents.layer: a fraction lies between 0 and 1, got {index}")
        return round(index * num_layers)
    resolved = int(index) if index >= 0 else num_layers + 1 + int(index)
    if not 0 <= resolved <= num_layers:
        raise ConfigError(
            f"latents.layer: {index} is not a layer of a model with {num_layers}; "
            f"give 0 to {num_layers}, -1 to {-num_layers - 1}, or a fraction"
        )
    return resolved


@contextmanager
def _hook(model: nn.Module, source: Source, states: dict[Source, Tensor]) -> Iterator[None]:
    norm: nn.Module | None = None

    def keep(tensor: Any) -> None:
        if source in states:
            raise TrainingError(f"{source} ran twice in one forward pass; it cannot be a latent")
        found = _first_tensor(tensor)
        states[source] = found if norm is None else norm(found)

    if isinstance(source, Layer):
        num_layers = int(text_config(model).num_hidden_layers)
        index = resolve_layer(source.index, num_layers)
        backbone = _backbone(model)
        if source.final_norm and index < num_layers:
            norm = _final_norm(backbone)
        if index == num_layers:
            handle = backbone.register_forward_hook(lambda _module, _inputs, output: keep(output[0]))
        elif index == 0:
            handle = _layers(backbone, num_layers)[0].register_forward_pre_hook(
                lambda _module, inputs, named: keep(inputs[0] if inputs else named["hidden_states"]), with_kwargs=True
            )
        else:
            layer = _layers(backbone, num_layers)[index - 1]
            handle = layer.register_forward_hook(lambda _module, _inputs, output: keep(output))
    elif isinstance(source, ImageFeatures):
        with _image_hook(model, source, keep):
            yield
        return
    else:
        handle = _submodule(model, source.path).register_forward_hook(lambda _module, _inputs, output: keep(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _image_hook(model: nn.Module, source: ImageFeatures, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Look on while the model makes its image features: a method of transformers' that every model which sees has."""
    owner, method = image_model(model), "get_image_features"
    original, former = getattr(owner, method), vars(owner).get(method)

    def watched(*args: Any, **options: Any) -> Any:
        output = original(*args, **options)
        found = getattr(output, "last_hidden_state" if source.part == "tower" else "pooler_output", None)
        if found is None:
            raise ConfigError(f"latents: {type(owner).__name__} does not tell its {source.part}'s states; use a module path")
        keep(found if isinstance(found, Tensor) else torch.cat([part.flatten(0, -2) for part in found]))
        return output

    setattr(owner, method, watched)
    try:
        yield
    finally:
        delattr(owner, method)
        if former is not None:
            setattr(owner, method, former)


def _backbone(model: nn.Module) -> nn.Module:
    """The language model without its head; its output starts with what the head reads."""
    decoder = getattr(model, "get_decoder", None)
    backbone: nn.Module | None = decoder() if decoder is not None else getattr(model, "base_model", None)
    if backbone is None or backbone is model:
        raise ConfigError(f"latents: {type(model).__name__} has no backbone to read layers from; use a module path")
    return backbone


def _layers(backbone: nn.Module, num_layers: int) -> nn.ModuleList:
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ConfigError(f"latents: no list of {num_layers} layers in {type(backbone).__name__}; use a module path")


def _final_norm(backbone: nn.Module) -> nn.Module:
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm"):
        found = getattr(backbone, name, None)
        if isinstance(found, nn.Module):
            return found
    raise ConfigError(f"latents.final_norm: no final norm was found in {type(backbone).__name__}; leave the option out")


def _submodule(model: nn.Module, path: str) -> nn.Module:
    known = dict(model.named_modules())
    if path not in known:
        raise ConfigError(f"latents: the model has no module '{path}'.{did_you_mean(path, known)}")
    found: nn.Module = known[path]
    return found


def _first_tensor(output: Any) -> Tensor:
    found = output if isinstance(output, Tensor) else output[0]
    if not isinstance(found, Tensor):
        raise TrainingError(f"expected a tensor of hidden states, got {type(found).__name__}")
    return found
