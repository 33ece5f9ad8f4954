"""Costs of a computation on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def without_values() -> FakeTensorMode:
    """Inside this block tensors have shapes alone; real ones that are met become such tensors too."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def written_out() -> AbstractContextManager[None]:
    """Attention as two products: fused kernels of some devices, and their backward passes, are unknown to the counter."""
    return sdpa_kernel(SDPBackend.MATH)


def count_flops(compute: Callable[[], object]) -> int:
    """The FLOPs of the matrix products of a computation, 2 per multiply-add."""
    with FlopCounterMode(display=False) as counter, written_out():
        compute()
    return int(counter.get_total_flops())


def saved_bytes(compute: Callable[[], object], weights: Iterable[Tensor]) -> tuple[int, int]:
    """What autograd keeps for the backward pass of a computation: activations, and copies of weights in another type."""
    owned: dict[int, Tensor] = {}
    shapes = set()
    for weight in weights:
        owned[_identity(weight)] = weight
        shapes.add(tuple(sorted(weight.shape)))
    # Held, so that no storage is freed and its identity given to another.
    activations: dict[int, UntypedStorage] = {}
    casts: dict[int, UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        identity = _identity(tensor)
        if identity not in owned:
            is_cast = tensor.dim() == 2 and tuple(sorted(tensor.shape)) in shapes
            (casts if is_cast else activations)[identity] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        held = compute()
    del held
    return sum(found.nbytes() for found in activations.values()), sum(found.nbytes() for found in casts.values())


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
