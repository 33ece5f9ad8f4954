"""Costs of a computation on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry


def without_values() -> FakeTensorMode:
    """Inside this block tensors have shapes alone; real ones that are met become such tensors too."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def unperformed() -> AbstractContextManager[Any]:
    """Inside this block matrix products give tensors of the right shape and any content; all else is computed.

    For code that asks sizes of values, where tensors without values will not do.
    """
    return _Unperformed()  # type: ignore[no-untyped-call]


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


class _Unperformed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func.overloadpacket not in flop_registry:
            return func(*args, **named)
        args, named = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, named))
        return tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="cpu"), func(*args, **named))
