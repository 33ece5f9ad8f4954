"""Several processes: replicate the policy, or shard policy and reference. Critics stay outside, replicated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ganpo_core.anatomy import base_model, is_composite, text_config
from ganpo_core.embedding import share_tied_gradient
from ganpo_core.errors import CheckpointError, ConfigError, GanpoError, Stop
from ganpo_core.models import Models
from ganpo_core.vision import seeing_weights
from ganpo_core.watchdog import DEFAULT, Watchdog

OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "accelerate's own FSDP plugin",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "accelerate's parallelism_config (tensor or context parallelism)",
}
"""Switches by which `accelerate launch` tells its processes to prepare models in a way that a run has no use for."""


def refuse_other_engines(environment: Mapping[str, str]) -> None:
    """Raises ConfigError where the launcher asks for an engine that would not shard, or would change, what a run trains."""
    asked = [name for variable, name in OTHER_ENGINES.items() if _is_on(environment.get(variable, ""))]
    if asked:
        raise ConfigError(
            f"launch: {asked[0]} is configured, and is not used here: it prepares one model, and a run has a policy, a "
            "reference and critics. Launch with distributed_type: MULTI_GPU and shard with `training.parallelism: fsdp2`, "
            "as examples/launch/fsdp2.yaml does"
        )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("", "no"):
        raise ConfigError(
            f"launch: mixed_precision is {precision}, and model.dtype decides here; set mixed_precision: no in accelerate's "
            "configuration, and `model.dtype: bfloat16` in the run file"
        )
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() not in ("", "no"):
        raise ConfigError(f"launch: dynamo_backend is {backend}, and models are not compiled here; set dynamo_backend: no")


def group_settings(watchdog_seconds: float | None) -> InitProcessGroupKwargs:
    """How long a collective may wait: longer than the watchdog, which can say in which phase."""
    seconds = DEFAULT if watchdog_seconds is None else watchdog_seconds
    # Loading is not watched, and processes may differ in it by the minutes that a slow disk takes.
    return InitProcessGroupKwargs(timeout=timedelta(seconds=max(1800.0, 2 * seconds)))


def _is_on(value: str) -> bool:
    return value.strip().lower() in ("1", "true", "yes", "on", "y", "t")


def parallelize(models: Models, accelerator: Accelerator, parallelism: str) -> None:
    """Make the policy's passes collective where there are several processes."""
    if accelerator.num_processes == 1 and parallelism == "ddp":
        share_tied_gradient(base_model(models.policy))
        return
    if parallelism == "ddp":
        if is_composite(models.policy):
            models.averages_gradients = True
        else:
            models.callable_policy = accelerator.prepare_model(models.policy)
        return
    if not dist.is_initialized():
        raise ConfigError("training.parallelism: fsdp2 needs processes to shard over; launch it with torchrun or accelerate")
    if is_composite(models.policy) and seeing_weights(base_model(models.policy)) & {*map(id, models.trainable().values())}:
        raise ConfigError(
            "training.parallelism: fsdp2 shards gradients that every process has, and processes whose pairs hold no image "
            "have none of what sees; keep it as it is (model.freeze: [vision_tower, projector]) or use ddp"
        )
    shard(models.policy, models)
    if models.reference is not None:
        shard(models.reference, models)


def shard(model: nn.Module, models: Models) -> None:
    """FSDP2: every decoder layer a unit, the rest of the model the last one."""
    mesh = init_device_mesh(models.device.type, (dist.get_world_size(),))
    reduced = models.dtype == torch.bfloat16
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if reduced else None
    options = {"mesh": mesh} if policy is None else {"mesh": mesh, "mp_policy": policy}
    num_layers = int(text_config(model).num_hidden_layers)
    base: Any = base_model(model)
    for module in (base.get_decoder() if is_composite(model) else base).modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            for layer in module:
                fully_shard(layer, **options)
            break
    fully_shard(model, **options)


@contextmanager
def synchronize_gradients(models: Models, last: bool) -> Iterator[None]:
    """Exchange gradients in the last micro-batch of a step alone."""
    wrapped = models.callable_policy
    if isinstance(models.policy, FSDPModule):
        models.policy.set_requires_gradient_sync(last)
        yield
    elif isinstance(wrapped, nn.parallel.DistributedDataParallel) and not last:
        with wrapped.no_sync():
            yield
    else:
        yield
        if models.averages_gradients and last:
            _average_gradients(list(models.trainable().values()))


@torch.no_grad()
def _average_gradients(weights: Sequence[nn.Parameter]) -> None:
    """The mean over processes, where DistributedDataParallel cannot: it leaves gradients of its own in weights that took no
    part in a step's last micro-batch, as what sees does where no pair of it holds an image. Nobody's gradient stays None.
    """
    held = torch.tensor([float(weight.grad is not None) for weight in weights], device=weights[0].device)
    dist.all_reduce(held)
    shared = [weight for weight, count in zip(weights, held.tolist(), strict=True) if count]
    for weight in shared:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    waiting = [dist.all_reduce(weight.grad, async_op=True) for weight in shared]
    for weight, handle in zip(shared, waiting, strict=True):
        handle.wait()
        assert weight.grad is not None
        weight.grad /= dist.get_world_size()


@torch.no_grad()
def sync_reference(models: Models, mixup: float) -> None:
    """Replace the reference by `mixup` times the policy plus the rest of itself (TR-DPO, arXiv 2404.09656)."""
    assert models.reference is not None
    for model in (models.policy, models.reference):
        if isinstance(model, FSDPModule):
            model.reshard()  # its own weights stay gathered after a pass without a backward
    weights = dict(models.policy.named_parameters())
    for name, weight in models.reference.named_parameters():
        weight.mul_(1 - mixup).add_(weights[name].to(weight.dtype), alpha=mixup)


def on_main(accelerator: Accelerator, act: Callable[[], None]) -> None:
    """Do something on the main process alone. What a user can fix there, or a signal, is raised on every process, so that
    none waits."""
    error: GanpoError | Stop | None = None
    if accelerator.is_main_process:
        try:
            act()
        except (GanpoError, Stop) as raised:
            error = raised
    (message,) = broadcast([None if error is None else str(error)])
    if error is not None:
        raise error
    if message is not None:
        raise CheckpointError(f"the main process stopped: {message}")


def broadcast(values: list[Any]) -> list[Any]:
    """Plain data of the main process, on every process."""
    found: list[Any] = broadcast_object_list(values)
    return found


def sum_over_processes(accelerator: Accelerator, watchdog: Watchdog, tensor: Tensor) -> Tensor:
    """Add a tensor up over all processes."""
    with watchdog.phase("reduce"):
        total: Tensor = accelerator.reduce(tensor, reduction="sum")
    return total


def gather_parts(accelerator: Accelerator, watchdog: Watchdog, rows: Tensor) -> list[Tensor]:
    """The rows of each process, in the order of the processes; each may have any number of them."""
    if accelerator.num_processes == 1:
        return [rows]
    with watchdog.phase("gather"):
        counts = accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        joined = accelerator.gather(accelerator.pad_across_processes(rows, dim=0))
    parts = joined.chunk(accelerator.num_processes)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards; collective where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_weights(model: nn.Module, is_main: bool) -> dict[str, Tensor]:
    """A sharded model's state gathered, without the second name of tied weights, as `save_pretrained` expects."""
    unique = {name for name, _ in model.named_parameters()}
    second = {name for name, _ in model.named_parameters(remove_duplicate=False)} - unique
    return {name: gathered(value, is_main) for name, value in model.state_dict().items() if name not in second}


def gathered(tensor: Tensor, is_main: bool) -> Tensor:
    """The whole tensor on the main process's CPU; elsewhere an empty one, so that no GPU holds a whole model. Collective."""
    found = whole(tensor)
    return found.cpu() if is_main else found.new_empty(0)


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` placed and sharded as `model` is."""
    if isinstance(model, DTensor):
        return distribute_tensor(tensor.to(model.device, model.dtype), model.device_mesh, model.placements)
    return tensor.to(model.device, model.dtype)
