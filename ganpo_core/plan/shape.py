"""A model's size and what a pass through it keeps, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ganpo_core.anatomy import base_model, is_composite, text_config
from ganpo_core.config import ModelConfig
from ganpo_core.models import DTYPES
from ganpo_core.plan.measure import saved_bytes, without_values
from ganpo_core.plan.sight import planned_model
from ganpo_core.vision import seeing_weights

FOUR_BIT = 0.5 + 4 / 64
"""Bytes of a weight in 4 bits, with a float32 scale for every 64."""


@dataclass(frozen=True)
class ModelShape:
    """A policy: counts of parameters, bytes, and what its backward pass needs."""

    parameters: int
    trainable: int
    body: float
    """Of the matrices that a token passes on its way to the last hidden state; of a mixture's experts, those it visits."""
    body_trainable: float
    head: int
    head_trainable: bool
    vocabulary: int
    width: int
    """Of the hidden states."""
    num_layers: int
    attention_width: int
    """Of all heads together."""
    weight_bytes: float
    trainable_bytes: int
    optimizer_elements: int
    saved_per_token: float
    """Bytes of activations that the body's backward pass needs, for each position."""
    cast_bytes: int
    """Copies of weights in the type of the computation, kept from the forward pass to the backward pass."""
    largest_unit: int
    """Parameters of the largest part that is gathered as a whole where weights are sharded."""


def model_shape(config: ModelConfig, row: int, model: Any = None) -> ModelShape:
    """The policy of a run as it will be loaded; activations for rows of `row` tokens. `model` is its `planned_model`."""
    model = planned_model(config) if model is None else model
    settings = text_config(base_model(model))
    embeddings = {
        id(weight) for module in model.modules() if isinstance(module, nn.Embedding) for weight in module.parameters()
    }
    head = base_model(model).get_output_embeddings().weight  # type: ignore[operator]
    heads = getattr(settings, "num_attention_heads", 0) or 0
    weights = list(model.parameters())
    # What sees is passed by images, not by tokens.
    aside = embeddings | {id(head)} | (seeing_weights(base_model(model)) if is_composite(model) else set())
    body = [weight for weight in weights if weight.dim() > 1 and id(weight) not in aside]
    trainable = [weight for weight in weights if weight.requires_grad]
    weight_bytes = sum(_bytes(weight, config, {id(w) for w in body}) for weight in weights)
    decoder = base_model(model).get_decoder() if is_composite(model) else model  # type: ignore[operator]
    layers = next(
        (m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == settings.num_hidden_layers), [model]
    )
    in_layers = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
    saved, casts = _saved(model, config, row)
    return ModelShape(
        parameters=sum(weight.numel() for weight in weights),
        trainable=sum(weight.numel() for weight in trainable),
        body=sum(_visited(weight, settings) for weight in body),
        body_trainable=sum(_visited(weight, settings) for weight in body if weight.requires_grad),
        head=head.numel(),
        head_trainable=head.requires_grad,
        vocabulary=head.shape[0],
        width=int(settings.hidden_size),
        num_layers=int(settings.num_hidden_layers),
        attention_width=heads * int(getattr(settings, "head_dim", None) or settings.hidden_size // max(heads, 1)),
        weight_bytes=weight_bytes,
        trainable_bytes=sum(weight.numel() * weight.element_size() for weight in trainable),
        optimizer_elements=sum(weight.numel() for weight in trainable),
        saved_per_token=saved,
        cast_bytes=casts,
        largest_unit=max(sum(weight.numel() for weight in weights) - sum(in_layers), *in_layers),
    )


def _saved(model: Any, config: ModelConfig, row: int) -> tuple[float, int]:
    """Bytes for each position of one row through the body, and of the copies of weights."""
    limit = getattr(text_config(base_model(model)), "max_position_embeddings", None)
    # Odd: weights have even sides, so that no activation is taken for a copy of one.
    row = (min(row, int(limit) - 1) if limit else row) // 2 * 2 + 1
    with without_values():
        # Not the meta device: there attention would be written out, and its weights kept.
        model.to_empty(device="cpu")
        base_model(model).tie_weights()  # type: ignore[operator]
        body = base_model(model).get_decoder()  # type: ignore[operator]
        ids, mask = torch.zeros(1, row, dtype=torch.long), torch.ones(1, row, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, enabled=DTYPES[config.dtype] == torch.bfloat16):
            saved, casts = saved_bytes(
                lambda: body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state,
                [*model.parameters(), *model.buffers()],
            )
    return saved / row, casts


def _visited(weight: nn.Parameter, settings: Any) -> float:
    """The parameters of a matrix that one token passes: of stacked experts [E, ...], those that it is sent to."""
    chosen = getattr(settings, "num_experts_per_tok", None)
    return weight.numel() / weight.shape[0] * chosen if weight.dim() == 3 and chosen else float(weight.numel())


def _bytes(weight: nn.Parameter, config: ModelConfig, body: set[int]) -> float:
    if config.quantization and id(weight) in body and not weight.requires_grad:
        return weight.numel() * FOUR_BIT
    return float(weight.numel() * weight.element_size())
