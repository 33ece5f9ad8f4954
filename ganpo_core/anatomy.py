"""The parts of a transformers model that more than one place asks for, under any adapters and beside any other modality."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def text_config(model: nn.Module) -> Any:
    """The language model's own configuration, also inside a model of several modalities."""
    config: Any = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def is_composite(model: nn.Module) -> bool:
    """Whether the language model is one of several parts, as in models that see."""
    return text_config(model) is not base_model(model).config


def base_model(model: nn.Module) -> nn.Module:
    """The transformers model under any adapters."""
    unwrapped = getattr(model, "get_base_model", None)
    return unwrapped() if unwrapped is not None else model


def output_layer(model: nn.Module) -> nn.Module | None:
    """The module that makes logits of states."""
    layer: nn.Module | None = base_model(model).get_output_embeddings()  # type: ignore[operator]
    return layer


def stored_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that a model's files hold, by name; others are computed, and some models compute them again as they run."""
    return {
        f"{path}.{name}" if path else name: buffer
        for path, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability to 0, in modules and in layers that keep theirs as a number."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Every number of transformers' layers that has "drop" in its name is one: attention_dropout, attn_pdrop, layerdrop, …
        for name, value in vars(module).items():
            if isinstance(value, float) and "drop" in name:
                setattr(module, name, 0.0)


def checkpoint_activations(model: nn.Module) -> None:
    """Recompute each layer's activations in the backward pass."""
    # Renamed in transformers 5.x; the older name is still what peft's wrapper and earlier versions answer to.
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(method for name in names if (method := getattr(base_model(model), name, None)) is not None)
    enable({"use_reentrant": False})
