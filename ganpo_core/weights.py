"""Weights as a whole: whether all are finite, and whether the frozen ones are still what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ganpo_core.models import Models

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def frozen_weights(models: Models) -> dict[str, Tensor]:
    """What makes the reference: its own weights, or those of the policy that adapters leave alone."""
    if models.reference is not None:
        _gather_back(models.reference)
        return {name: weight for name, weight in models.weights().items() if name.startswith("reference ")}
    _gather_back(models.policy)
    return {name: weight.detach() for name, weight in models.policy.named_parameters() if not weight.requires_grad}


@torch.no_grad()
def bit_sums(weights: Iterable[Tensor]) -> Tensor | None:
    """[weights], the sum of each one's bits as integers, modulo 2^64: a flipped bit changes it. None of no weights.

    Sharded weights give this process's part; the parts of all processes add up to the whole's.
    """
    sums = []
    for weight in weights:
        own = weight.to_local() if isinstance(weight, DTensor) else weight
        sums.append(own.view(_WORDS[own.element_size()]).sum(dtype=torch.int64))
    return torch.stack(sums) if sums else None


def fingerprint(models: Models, sum_over_processes: Callable[[Tensor], Tensor]) -> str | None:
    """Of the reference, the same for any number of processes; None where nothing is frozen."""
    weights = frozen_weights(models)
    sums = bit_sums(weights.values())
    if sums is None:
        return None
    sharded = torch.tensor([isinstance(weight, DTensor) for weight in weights.values()], device=sums.device)
    if bool(sharded.any()):
        sums = torch.where(sharded, sum_over_processes(sums), sums)
    return sha256(repr([(name, value) for name, value in zip(weights, sums.tolist(), strict=True)]).encode()).hexdigest()


@torch.no_grad()
def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of weights that hold a value that is not finite; waits for the device once."""
    floating = {name: weight for name, weight in weights.items() if weight.is_floating_point() and weight.numel()}
    if not floating:
        return []
    sums = torch.stack([_sum(weight) for weight in floating.values()])
    suspects = [name for name, sum_ in zip(floating, sums.tolist(), strict=True) if sum_ != sum_ or abs(sum_) == float("inf")]
    return [name for name in suspects if not bool(_local(floating[name]).isfinite().all())]


def _sum(weight: Tensor) -> Tensor:
    return _local(weight).detach().sum(dtype=torch.promote_types(weight.dtype, torch.float32)).double()


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _gather_back(model: nn.Module) -> None:
    if isinstance(model, FSDPModule):
        model.reshard()  # its own weights stay gathered after a pass without a backward
