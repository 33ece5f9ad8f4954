"""A checkpoint back into a run. A reader trusts only what verifies, and reads it whole before it changes anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ganpo_core.checkpoint import Tensors, moving_reference
from ganpo_core.errors import CheckpointError
from ganpo_core.folders import find_flaw, step_folders, step_name
from ganpo_core.identity import check_identity, compare_rows, identity
from ganpo_core.metrics import MetricSums
from ganpo_core.moments import set_moments
from ganpo_core.output import CHECKPOINTS, REQUIRED, STATE
from ganpo_core.parallel import broadcast, like, on_main
from ganpo_core.randomness import set_randomness
from ganpo_core.run import Run, count_steps


@dataclass(frozen=True)
class Saved:
    """A checkpoint that verified, read whole before anything of the run is changed."""

    folder: Path
    state: Mapping[str, Any]
    tensors: Tensors


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


def _read(run: Run, folder: Path) -> Saved:
    """Everything in a folder that verified. Raises _FlawError where what it holds is not what this run holds."""
    names = ["policy", "optimizer", "adversary", "data", *(["reference"] if moving_reference(run) else [])]
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        tensors = {name: load_file(folder / f"{name}.safetensors") for name in names}
        missing = {"step", "num_processes", "pairs_seen", "sources", "adversary", "metrics", "statistics"}
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


def load_state(run: Run, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Put weights, moments, critics and running means back. Without moments, the optimizer starts afresh."""
    saved = tensors.get("optimizer", {})
    with torch.no_grad():
        for name, weight in run.models.moving().items():
            weight.copy_(like(tensors["policy"][name], weight))
        for name, weight in run.models.trainable().items():
            prefix = f"{name}."
            held = {key.removeprefix(prefix): value for key, value in saved.items() if key.startswith(prefix)}
            set_moments(run.optimizer, weight, held)
        for name, weight in moving_reference(run).items():
            weight.copy_(like(tensors["reference"][name], weight))
    for regularizer in run.regularizers:
        prefix = f"{regularizer.plan.name}."
        own = {
            key.removeprefix(prefix): value for key, value in tensors["adversary"].items() if key.startswith(prefix)
        }
        regularizer.load(own, state["adversary"][regularizer.plan.name])
    run.statistics.load(state["statistics"])


class _FlawError(Exception):
    """A checkpoint that verifies and still is not one."""
