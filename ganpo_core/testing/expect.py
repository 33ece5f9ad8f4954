"""What the checks say when a promise is broken: `<Component>.<method>: expected …; found …`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganpo_core.components import Component

GARBAGE = 1e4
"""Put where a component must not look. Finite, so that multiplying by a mask is as good as selecting."""

EXACT = 1e-10
"""Tolerance of identities in float64, relative to 1 plus the largest value."""


def expect(holds: bool | Tensor, where: str, expected: str, found: object = None) -> None:
    """Raise AssertionError unless `holds`."""
    if not bool(holds):
        raise AssertionError(f"{where}: expected {expected}" + ("" if found is None else f"; found {found}"))


def expect_component(component: object, base: type[Component]) -> None:
    """A frozen dataclass instance of its contract, with a docstring of its own."""
    name = type(component).__name__
    expect(isinstance(component, base), name, f"an instance of ganpo_core.{base.__name__}", repr(component))
    frozen = "__dataclass_params__" in vars(type(component)) and vars(type(component))["__dataclass_params__"].frozen
    expect(frozen, name, "a class decorated with @dataclass(frozen=True)")
    text = type(component).__doc__ or ""
    expect(bool(text) and not text.startswith(f"{name}("), name, "a docstring whose first sentence says what it is")
    expect(component == copy.deepcopy(component), name, "equality with a copy of itself; options are plain values")


def expect_tensor(value: object, shape: Sequence[int], where: str, meaning: str) -> None:
    """A finite tensor of a shape."""
    expect(isinstance(value, Tensor), where, f"{meaning} as a tensor of shape {list(shape)}", type(value).__name__)
    assert isinstance(value, Tensor)
    expect(list(value.shape) == list(shape), where, f"{meaning} of shape {list(shape)}", list(value.shape))
    expect_finite(value, where, meaning)


def expect_finite(value: Tensor, where: str, meaning: str) -> None:
    """No nan, no inf."""
    expect(value.isfinite().all(), where, f"finite {meaning} in {value.dtype}", value.tolist())


def expect_same(found: Tensor, wanted: Tensor, where: str, expected: str, tolerance: float = EXACT) -> None:
    """Two tensors of one shape that agree within `tolerance`."""
    expect(found.shape == wanted.shape, where, f"{expected} (shape {list(wanted.shape)})", list(found.shape))
    if found.numel() == 0:
        return
    difference = (found - wanted).detach().abs().max().item()
    limit = tolerance * (1 + wanted.detach().abs().max().item())
    expect(difference <= limit, where, expected, f"a difference of {difference:.3g}")


def expect_gradcheck(function: Callable[..., Tensor], inputs: Sequence[Tensor], where: str) -> None:
    """Gradients equal finite differences in float64."""
    leaves = tuple(tensor.detach().double().requires_grad_() for tensor in inputs)
    try:
        torch.autograd.gradcheck(function, leaves, fast_mode=True)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise AssertionError(f"{where}: expected gradients equal to finite differences; found {reason}") from error


def gradients(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """d sum(value) / d inputs, zeros where there is no path."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    found = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    return tuple(torch.zeros_like(i) if g is None else g for g, i in zip(found, inputs, strict=True))
