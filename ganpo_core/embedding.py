"""The gradient of an embedding that is also the output layer's weight: a few rows, beside a whole matrix.

Autograd adds the two by filling a second matrix of the vocabulary's size, also where the first is sparse. Here the rows go
into the gradient itself once a backward pass is over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.autograd.graph import Node


def share_tied_gradient(model: nn.Module) -> None:
    """Let a tied embedding of a model on a CPU add its rows to `weight.grad` when a backward pass ends.

    For `backward()`: `torch.autograd.grad` by that weight would miss the rows. On CUDA rows would be added in no fixed order,
    and DDP averages a gradient before the pass ends, so neither is meant.
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(embedding, nn.Embedding) or output is None or output.weight is not embedding.weight:
        return
    if embedding.weight.requires_grad and embedding.weight.device.type == "cpu":
        embedding.sparse = True
        embedding.register_forward_hook(_divert)


def _divert(embedding: nn.Embedding, _inputs: object, output: Tensor) -> None:
    """Take the rows out of this lookup's backward pass."""

    def take(gradients: tuple[Tensor | None, ...], _: object) -> tuple[None, ...]:
        rows = gradients[0]
        if rows is not None:
            Variable._execution_engine.queue_callback(lambda: _add(embedding.weight, rows))
        return (None,) * len(gradients)

    node = _lookup(output.grad_fn)
    if node is not None:
        node.register_hook(take)


def _lookup(node: Node | None) -> Any:
    """The embedding's own step of the graph: scaled embeddings have more on top."""
    while node is not None and node.name() != "EmbeddingBackward0":
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return node


@torch.no_grad()
def _add(weight: Tensor, rows: Tensor) -> None:
    if weight.grad is None:
        weight.grad = rows.to_dense()
    else:
        weight.grad.add_(rows)
