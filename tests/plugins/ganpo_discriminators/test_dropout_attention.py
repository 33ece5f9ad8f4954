"""Attention with dropout on a CPU: the same numbers as its formula, twice differentiable, and next to nothing kept."""

from __future__ import annotations

import torch
from ganpo_discriminators.dropout_attention import dropout_attention
from torch import Tensor

HEADS, TOKENS, WIDTH, DROPOUT = 2, 5, 3, 0.4


def seeded(*tensors: Tensor) -> Tensor:
    torch.manual_seed(3)
    return dropout_attention(*tensors, DROPOUT)


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (HEADS, TOKENS, WIDTH)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def test_it_is_dropout_of_the_weights() -> None:
    query, key, value = drawn(0)
    torch.manual_seed(3)
    kept = torch.empty(HEADS, TOKENS, TOKENS, dtype=torch.bool).bernoulli_(1 - DROPOUT)
    assert not kept.all() and kept.any()
    scores = torch.einsum("aqe,ake->aqk", query, key) / WIDTH**0.5
    expected = torch.einsum("aqk,ake->aqe", scores.exp() / scores.exp().sum(-1, keepdim=True) * kept / 0.6, value)
    torch.testing.assert_close(seeded(query, key, value), expected, rtol=1e-12, atol=1e-12)


def test_a_weight_is_dropped_with_the_probability_asked_for() -> None:
    torch.manual_seed(0)
    tokens = 400
    flat = torch.zeros(1, tokens, 1)  # equal weights of 1 / tokens, so that a sum of values counts those kept
    share = dropout_attention(flat, flat, torch.ones(1, tokens, 1), 0.1) * 0.9
    assert abs(float(share.mean()) - 0.9) < 4 * (0.09 / tokens**2) ** 0.5


def test_first_and_second_derivatives() -> None:
    inputs = tuple(drawn(1))
    assert torch.autograd.gradcheck(seeded, inputs)
    assert torch.autograd.gradgradcheck(seeded, inputs)


def test_a_byte_a_weight_is_kept() -> None:
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    inputs = [torch.randn(8, 256, 64, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        dropout_attention(*inputs, 0.1)  # type: ignore[arg-type]
    assert sum(kept) == 8 * 256 * 256 + 3 * 4 * 8 * 256 * 64


def test_lower_precision_under_autocast() -> None:
    inputs = [torch.randn(2, 7, 4, requires_grad=True) for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        found = dropout_attention(*inputs, 0.2)  # type: ignore[arg-type]
    found.float().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in inputs)
