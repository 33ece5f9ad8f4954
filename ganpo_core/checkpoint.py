"""All of a run's state to disk and back. A checkpoint is complete or absent, and a reader trusts only what verifies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganpo_core.assemble import Run, count_steps
from ganpo_core.errors import CheckpointError
from ganpo_core.folders import find_flaw, rotate, step_folders, step_name, write_folder
from ganpo_core.identity import check_identity, compare_rows, identity
from ganpo_core.metrics import MetricSums
from ganpo_core.models import save_policy
from ganpo_core.moments import moments, set_moments
from ganpo_core.output import CHECKPOINTS, REQUIRED, STATE, OutputFolder
from ganpo_core.parallel import broadcast, gathered, like, on_main, whole_weights
from ganpo_core.randomness import as_plain, randomness, set_randomness
from ganpo_core.schedules import rescale
from ganpo_core.soundness import check_reference, check_weights

MARGIN = 1 << 16
"""Bytes beside the tensors' own that a folder takes: headers, manifest, the folder itself."""
Tensors = dict[str, dict[str, Tensor]]
"""By file."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that verified, read whole before anything of the run is changed."""

    folder: Path
    state: Mapping[str, Any]
    tensors: Tensors


def save_checkpoint(run: Run, output: OutputFolder, step: int, metrics: MetricSums) -> None:
    """Write the state after `step` optimizer steps; collective. Raises CheckpointError, on all processes, if it cannot."""
    check_weights(run)
    check_reference(run)
    tensors, is_main = gather_weights(run), run.accelerator.is_main_process
    tensors["optimizer"] = {
        f"{name}.{key}": gathered(value, is_main)
        for name, weight in run.models.trainable().items()
        for key, value in moments(run.optimizer, weight).items()
    }
    who = identity(run)
    randomnesses = gather_object([as_plain(randomness())])
    # Every process holds its own part of the interval's metrics.
    interval = gather_object([metrics.state()])

    def write_all() -> None:
        output.check()
        state = {
            "step": step,
            "max_steps": run.max_steps,
            "num_processes": run.accelerator.num_processes,
            "pairs_seen": run.place(step),
            "sources": dict(zip(run.pairs.sources, run.pairs.counts, strict=True)),
            "schedule": {key: run.scheduler.state_dict()[key] for key in ("last_epoch", "_step_count", "_last_lr")},
            "adversary": {regularizer.plan.name: regularizer.state() for regularizer in run.regularizers},
            "metrics": interval,
            "statistics": run.statistics.state(),
            "randomness": randomnesses,
            "identity": who,
        }
        tensors["data"] = {name: torch.from_numpy(own) for name, own in run.pairs.digests.items()}
        text = json.dumps(state)

        def write(folder: Path) -> None:
            for name, own in tensors.items():
                save_tensors(own, folder / f"{name}.safetensors")
            (folder / STATE).write_text(text, encoding="utf-8")

        root = run.config.output_dir / CHECKPOINTS
        write_folder(root / step_name(step), write, size_of(tensors) + len(text))
        rotate(root, step, run.config.training.save_total_limit, REQUIRED)

    on_main(run.accelerator, write_all)


def restore_checkpoint(run: Run, metrics: MetricSums, say: Callable[[str], None], allowed: Sequence[str] = ()) -> int:
    """Load the newest checkpoint that verifies; returns its step, 0 where there is none.

    Raises CheckpointError where it was written by another run, by every key that differs and is not `allowed`.
    """
    named: list[str] = []
    current = identity(run)

    def choose() -> None:
        for _, folder in reversed(step_folders(run.config.output_dir / CHECKPOINTS)):
            flaw = find_flaw(folder, REQUIRED)
            if flaw is None:
                flaw = _misfit(run, folder, current)
            if flaw is None:
                named.append(str(folder))
                return
            say(f"checkpoint {folder.name} is not used: {flaw}; falling back to what was before it")

    on_main(run.accelerator, choose)
    (chosen,) = broadcast([named[0] if named else None])
    if chosen is None:
        return 0
    return _load(run, metrics, _read(run, Path(chosen)), current, say, allowed)


def export(run: Run, output: OutputFolder) -> None:
    """Write the finished run's `policy/` and `adversary/`, each whole or not at all; collective over processes."""
    is_sharded, is_main = run.config.training.parallelism == "fsdp2", run.accelerator.is_main_process
    weights = whole_weights(run.models.policy, is_main) if is_sharded else None
    folder = run.config.output_dir

    def write_both() -> None:
        output.check()
        size = sum(weight.numel() * weight.element_size() for weight in run.models.policy.parameters())
        # The adversary first: a folder with a policy is a folder with everything.
        if run.regularizers:
            needed = size_of({"": {name: t for r in run.regularizers for name, t in r.tensors().items()}})
            write_folder(folder / "adversary", lambda aside: _save_adversary(run, aside), needed)
        write_folder(folder / "policy", lambda aside: save_policy(run.models, aside, weights), size + MARGIN)

    on_main(run.accelerator, write_both)


def is_exported(run: Run) -> bool:
    """Whether the finished run's folders are there and verify, on the main process's word."""
    adapters = run.config.model.lora is not None
    required = {"policy": ("adapter_config.json", "adapter_model.safetensors") if adapters else ("config.json",)}
    if run.regularizers:
        required["adversary"] = ("adversary.json", "means.safetensors")
    folder = run.config.output_dir
    (whole_folders,) = broadcast([all(find_flaw(folder / name, files) is None for name, files in required.items())])
    return bool(whole_folders)


def gather_weights(run: Run) -> Tensors:
    """What a step is a function of, by file: all but the optimizer's moments; collective where weights are sharded."""
    is_main = run.accelerator.is_main_process
    tensors = {
        "policy": {name: gathered(weight.detach(), is_main) for name, weight in run.models.moving().items()},
        "adversary": {f"{r.plan.name}.{name}": value for r in run.regularizers for name, value in r.tensors().items()},
    }
    if moving := _moving_reference(run):
        tensors["reference"] = {name: gathered(weight.detach(), is_main) for name, weight in moving.items()}
    return tensors


def _read(run: Run, folder: Path) -> Saved:
    """Everything in a folder that verified. Raises _FlawError where what it holds is not what this run holds."""
    names = ["policy", "optimizer", "adversary", "data", *(["reference"] if _moving_reference(run) else [])]
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in names}
        missing = {"step", "num_processes", "pairs_seen", "sources", "schedule", "adversary", "metrics", "statistics"}
        missing |= {"randomness", "identity"}
        if not isinstance(state, dict) or missing - set(state) or not isinstance(state["identity"], dict):
            raise _FlawError(f"{STATE} lacks what a run needs")
        # Older checkpoints compare it, though it follows from what else is compared.
        state.setdefault("max_steps", state["identity"].pop("max_steps", None))
        if step_name(int(state["step"])) != folder.name:
            raise _FlawError(f"{STATE} is that of step {state['step']}")
        if len(state["randomness"]) != state["num_processes"] or len(state["metrics"]) != state["num_processes"]:
            raise _FlawError(f"{STATE} does not hold the state of each process")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise _FlawError(f"it cannot be read ({error})") from error
    return Saved(folder, state, tensors)


def _misfit(run: Run, folder: Path, current: Mapping[str, Any]) -> str | None:
    """Why a folder that verified is no state of this run; that of another run is no misfit, and refused by its identity."""
    try:
        saved = _read(run, folder)
    except _FlawError as error:
        return str(error)
    if saved.state["identity"] != json.loads(json.dumps(current)):
        return None
    return _lacking(run, saved.tensors)


def _lacking(run: Run, tensors: Tensors) -> str | None:
    """The first weight of this run that a checkpoint does not hold in its shape, or the first tensor that is nobody's."""
    expected = {name: tuple(weight.shape) for name, weight in run.models.moving().items()}
    found = {name: tuple(value.shape) for name, value in tensors["policy"].items()}
    if different := sorted(name for name in expected | found if expected.get(name) != found.get(name)):
        return f"policy.safetensors does not hold {different[0]} in the policy's shape"
    # A weight that never had a gradient has no moments: what sees, before the first image.
    if strange := sorted({key.rpartition(".")[0] for key in tensors["optimizer"]} - set(run.models.trainable())):
        return f"optimizer.safetensors holds the moments of {strange[0]}, which is no weight that is trained"
    prefixes = tuple(f"{regularizer.plan.name}." for regularizer in run.regularizers)
    for regularizer in run.regularizers:
        for name, tensor in regularizer.tensors().items():
            held = tensors["adversary"].get(f"{regularizer.plan.name}.{name}")
            if held is None or held.shape != tensor.shape:
                return f"adversary.safetensors does not hold {name} in its shape"
    if strange := [key for key in tensors["adversary"] if not key.startswith(prefixes)]:
        return f"adversary.safetensors holds {strange[0]}, which is nobody's"
    return None


def _load(
    run: Run,
    metrics: MetricSums,
    saved: Saved,
    current: Mapping[str, Any],
    say: Callable[[str], None],
    allowed: Sequence[str],
) -> int:
    state, world = saved.state, run.accelerator.num_processes
    same = state["num_processes"] == world
    rows = []
    if state["identity"].get("data") != current["data"]:
        digests = {name: own.numpy() for name, own in saved.tensors["data"].items()}
        rows = compare_rows(state["sources"], digests, run.pairs)
    try:
        for line in check_identity(state["identity"], current, allowed, same, rows):
            say(line)
    except CheckpointError as error:
        raise CheckpointError(f"{saved.folder}: {error}") from error
    if lacking := _lacking(run, saved.tensors):
        raise CheckpointError(f"{saved.folder}: {lacking}; what was allowed to change does not fit what was saved")
    load_state(run, saved.tensors, state)
    step, pairs_seen = int(state["step"]), int(state["pairs_seen"])
    run.first_pair = pairs_seen - step * run.pairs_per_step
    run.max_steps = count_steps(run.config.training, run.order.pairs_per_epoch, world, step, pairs_seen)
    before = _pairs_per_step(state)
    if before != run.pairs_per_step:
        say(f"a step held {before} pairs and holds {run.pairs_per_step}")
        if run.config.training.max_steps is None:
            _rescale_schedules(run, before / run.pairs_per_step)
    if run.max_steps != state["max_steps"]:
        say(f"max_steps was {state['max_steps']} and is {run.max_steps}")
    if same:
        set_randomness(state["randomness"][run.accelerator.process_index])
        metrics.load(state["metrics"][run.accelerator.process_index])
        return step
    say(
        f"resuming on {world} processes what ran on {state['num_processes']}: the same pairs in the same order, "
        "but not bitwise the same result"
    )
    if run.accelerator.is_main_process:
        metrics.load_sum(state["metrics"])
    return step


def _pairs_per_step(state: Mapping[str, Any]) -> int:
    """Of the run that wrote a checkpoint."""
    settings = state["identity"]["settings"]
    size, accumulated = (f"training.{name}" for name in ("per_device_train_batch_size", "gradient_accumulation_steps"))
    return int(settings[size]) * int(settings[accumulated]) * int(state["num_processes"])


def _rescale_schedules(run: Run, factor: float) -> None:
    """Go on in all schedules at the same share of the data."""
    rescale(run.scheduler, run.optimizer, factor)
    for regularizer in run.regularizers:
        regularizer.rescale_schedule(factor)


def load_state(run: Run, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Put weights, moments, schedules, critics and running means back. Without moments, the optimizer starts afresh."""
    saved = tensors.get("optimizer", {})
    with torch.no_grad():
        for name, weight in run.models.moving().items():
            weight.copy_(like(tensors["policy"][name], weight))
        for name, weight in run.models.trainable().items():
            prefix = f"{name}."
            held = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
            set_moments(run.optimizer, weight, held)
        for name, weight in _moving_reference(run).items():
            weight.copy_(like(tensors["reference"][name], weight))
    run.scheduler.load_state_dict({**run.scheduler.state_dict(), **state["schedule"]})
    for group, rate in zip(run.optimizer.param_groups, run.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    for regularizer in run.regularizers:
        prefix = f"{regularizer.plan.name}."
        own = {
            key.removeprefix(prefix): value for key, value in tensors["adversary"].items() if key.startswith(prefix)
        }
        regularizer.load(own, state["adversary"][regularizer.plan.name])
    run.statistics.load(state["statistics"])


def _moving_reference(run: Run) -> dict[str, torch.nn.Parameter]:
    """The reference's weights where they follow the policy; otherwise the run file says what they are."""
    if run.config.training.sync_reference is None or run.models.reference is None:
        return {}
    return dict(run.models.reference.named_parameters())


def _save_adversary(run: Run, folder: Path) -> None:
    for regularizer in run.regularizers:
        name = "" if regularizer.plan.name == "latent" else f"{regularizer.plan.name}-"
        for side, module in regularizer.modules().items():
            save_tensors(module.state_dict(), folder / f"{name}{side}.safetensors")
    means = {
        f"{r.plan.name}.means": value for r in run.regularizers for key, value in r.tensors().items() if key == "means"
    }
    save_tensors(means, folder / "means.safetensors")
    parts = ("adversaries", "latents", "discriminator", "divergence", "adversary")
    sections = {key: run.config.resolved[key] for key in parts if key in run.config.resolved}
    (folder / "adversary.json").write_text(json.dumps(sections, indent=1), encoding="utf-8")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file; copied are only those that cannot be written as they lie, or share memory."""
    kept: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        storage = flat.untyped_storage()
        is_shared = storage.nbytes() != flat.numel() * flat.element_size() or storage.data_ptr() in taken
        kept[name] = flat.clone() if is_shared else flat
        taken.add(kept[name].untyped_storage().data_ptr())
    save_file(kept, path)


def size_of(tensors: Tensors) -> int:
    """About how many bytes of a disk they take."""
    return MARGIN + sum(tensor.numel() * tensor.element_size() for own in tensors.values() for tensor in own.values())


class _FlawError(Exception):
    """A checkpoint that verifies and still is not one."""
