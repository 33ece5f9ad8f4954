"""Capped attention against its formula, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ganpo_core.forward.attention import attend, causal_mask
from ganpo_core.forward.softcap import capped_attention


def drawn() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    shapes = ((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4))
    return tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


@pytest.mark.parametrize("window", [None, 2])
def test_values_and_gradients_are_the_formula(window: int | None) -> None:
    inputs, allowed = drawn(), causal_mask(3, 5, window, torch.device("cpu"))
    found = capped_attention(*inputs, allowed, 0.7, 1.3)
    expected = attend(*inputs, allowed, 0.7, 1.3, 0.0, plain=True)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    ours = torch.autograd.grad(found, inputs, upstream)
    for mine, plain in zip(ours, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(mine, plain)


def test_gradients_agree_with_finite_differences() -> None:
    allowed = causal_mask(3, 5, None, torch.device("cpu"))
    assert torch.autograd.gradcheck(lambda *inputs: capped_attention(*inputs, allowed, 0.7, 1.3), drawn())


def test_autocast_makes_the_products_in_bfloat16_forward_and_backward() -> None:
    inputs = tuple(tensor.detach().float().requires_grad_() for tensor in drawn())
    allowed = causal_mask(3, 5, None, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        found = capped_attention(*inputs, allowed, 0.7, 1.3)
    assert found.dtype == torch.bfloat16
    plain = attend(*inputs, allowed, 0.7, 1.3, 0.0, plain=True)
    torch.testing.assert_close(found.float(), plain, rtol=2e-2, atol=2e-2)
    ours, theirs = (torch.autograd.grad(out.float().sum(), inputs[2])[0] for out in (found, plain))
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_nothing_as_large_as_the_scores_is_kept_for_the_backward_pass() -> None:
    inputs, kept = drawn(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda t: t):
        capped_attention(*inputs, causal_mask(3, 5, None, torch.device("cpu")), 0.7, 1.3)
    assert sorted(kept) == [15, 24, 40, 40]  # the mask, and the inputs
