"""All of a run's state to disk and back. A checkpoint is complete or absent: written aside, verified, renamed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor

from ganpo_core.assemble import Run
from ganpo_core.config.run import flatten
from ganpo_core.errors import CheckpointError
from ganpo_core.metrics import MetricSums
from ganpo_core.models import save_policy
from ganpo_core.parallel import like, whole, whole_weights

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
FREE_TO_CHANGE = (
    "output_dir",
    "training.logging_steps",
    "training.eval_steps",
    "training.per_device_eval_batch_size",
    "training.save_steps",
    "training.save_total_limit",
    "training.report_to",
    "training.watchdog_seconds",
    "data.eval_path",
    "data.eval_split",
)
"""Keys of the run file that a resumed run may change: they do not touch the weights."""


def save_checkpoint(run: Run, step: int, metrics: MetricSums) -> None:
    """Write the state after `step` optimizer steps; collective over processes. Raises CheckpointError if it cannot."""
    weights = {name: whole(weight.detach()) for name, weight in run.models.trainable().items()}
    moments = {
        f"{name}.{key}": whole(value)
        for name, weight in run.models.trainable().items()
        for key, value in run.optimizer.state[weight].items()
    }
    adversary = {f"{r.plan.name}.{name}": value for r in run.regularizers for name, value in r.tensors().items()}
    reference = {name: whole(weight.detach()) for name, weight in _moving_reference(run)}
    randomness = gather_object([_randomness()])
    # Every process holds its own part of the interval's metrics.
    interval = gather_object([metrics.state()])
    if run.accelerator.is_main_process:
        state = {
            "step": step,
            "num_processes": run.accelerator.num_processes,
            "schedule": {key: run.scheduler.state_dict()[key] for key in ("last_epoch", "_step_count", "_last_lr")},
            "adversary": {regularizer.plan.name: regularizer.state() for regularizer in run.regularizers},
            "metrics": interval,
            "statistics": run.statistics.state(),
            "randomness": randomness,
            "identity": identity(run),
        }

        def write(folder: Path) -> None:
            _save_tensors(weights, folder / "policy.safetensors")
            _save_tensors(moments, folder / "optimizer.safetensors")
            _save_tensors(adversary, folder / "adversary.safetensors")
            if reference:
                _save_tensors(reference, folder / "reference.safetensors")
            (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")

        root = run.config.output_dir / FOLDER
        write_folder(root / f"step-{step:08d}", write)
        _rotate(root, run.config.training.save_total_limit)
    run.accelerator.wait_for_everyone()


def restore_checkpoint(run: Run, metrics: MetricSums, say: Callable[[str], None]) -> int:
    """Load the newest checkpoint that verifies; returns its step, 0 where there is none. Raises CheckpointError."""
    root = run.config.output_dir / FOLDER
    for folder in sorted(root.glob("step-????????"), reverse=True):
        flaw = find_flaw(folder)
        if flaw is None:
            return _load(run, metrics, folder, say)
        say(f"checkpoint {folder.name} is not used: {flaw}; falling back to the one before it")
    return 0


def identity(run: Run) -> dict[str, Any]:
    """What must be the same for a resumed run to be the same run, by name."""
    settings = {
        key: value for key, value in flatten(run.config.resolved) if not any(_under(key, free) for free in FREE_TO_CHANGE)
    }
    plugins = {name: provider.version for name, provider in run.config.plugins.providers.items()}
    return {"settings": settings, "plugins": plugins, "data": run.pairs.fingerprint(), "max_steps": run.max_steps}


def export(run: Run) -> None:
    """Write the finished run's `policy/` and `adversary/`, each whole or not at all; collective over processes."""
    weights = None
    if run.config.training.parallelism == "fsdp2":
        weights = whole_weights(run.models.policy)
    if run.accelerator.is_main_process:
        write_folder(run.config.output_dir / "policy", lambda folder: save_policy(run.models, folder, weights))
        if run.regularizers:
            write_folder(run.config.output_dir / "adversary", lambda folder: _save_adversary(run, folder))
    run.accelerator.wait_for_everyone()


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder aside, sync it, sign it with a manifest, and rename it into place."""
    aside = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        write(aside)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        manifest = {str(path.relative_to(aside)): [path.stat().st_size, _digest(path)] for path in files}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in (*files, aside / MANIFEST, aside):
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error}; what was saved before is untouched") from error


def find_flaw(folder: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None if every file is as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, digest) in manifest.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or _digest(path) != digest:
                return f"{name} is damaged"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"its manifest cannot be read ({error})"
    return None


def _load(run: Run, metrics: MetricSums, folder: Path, say: Callable[[str], None]) -> int:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    _check_identity(state["identity"], identity(run), folder)
    weights = load_file(folder / "policy.safetensors")
    moments = load_file(folder / "optimizer.safetensors")
    with torch.no_grad():
        for name, weight in run.models.trainable().items():
            weight.copy_(like(weights[name], weight))
            prefix = f"{name}."
            held = {key.removeprefix(prefix): value for key, value in moments.items() if key.startswith(prefix)}
            run.optimizer.state[weight] = {
                key: value if value.dim() == 0 else like(value, weight) for key, value in held.items()
            }
    run.scheduler.load_state_dict({**run.scheduler.state_dict(), **state["schedule"]})
    for group, rate in zip(run.optimizer.param_groups, run.scheduler.get_last_lr(), strict=True):
        group["lr"] = rate
    adversary = load_file(folder / "adversary.safetensors")
    for regularizer in run.regularizers:
        prefix = f"{regularizer.plan.name}."
        own = {key.removeprefix(prefix): value for key, value in adversary.items() if key.startswith(prefix)}
        regularizer.load(own, state["adversary"][regularizer.plan.name])
    run.statistics.load(state["statistics"])
    if moving := dict(_moving_reference(run)):
        saved = load_file(folder / "reference.safetensors")
        with torch.no_grad():
            for name, weight in moving.items():
                weight.copy_(like(saved[name], weight))
    same = state["num_processes"] == run.accelerator.num_processes
    if not same:
        say(f"resuming on {run.accelerator.num_processes} processes what ran on {state['num_processes']}: not bitwise")
    else:
        _set_randomness(state["randomness"][run.accelerator.process_index])
        metrics.load(state["metrics"][run.accelerator.process_index])
    return int(state["step"])


def _moving_reference(run: Run) -> list[tuple[str, torch.nn.Parameter]]:
    """The reference's weights where they follow the policy; otherwise the run file says what they are."""
    if run.config.training.sync_reference is None or run.models.reference is None:
        return []
    return list(run.models.reference.named_parameters())


def _check_identity(saved: Mapping[str, Any], current: Mapping[str, Any], folder: Path) -> None:
    before, now = dict(flatten(saved)), dict(flatten(json.loads(json.dumps(current))))
    changed = [
        f"{key.removeprefix('settings.')}: was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise CheckpointError(
            f"{folder}: was written by another run, so resuming would mix the two. Changed: {'; '.join(changed)}. "
            "Undo the change, or start again in a new output_dir"
        )


def _save_adversary(run: Run, folder: Path) -> None:
    for regularizer in run.regularizers:
        name = "" if regularizer.plan.name == "latent" else f"{regularizer.plan.name}-"
        for side, module in regularizer.modules().items():
            _save_tensors(module.state_dict(), folder / f"{name}{side}.safetensors")
    means = {
        f"{r.plan.name}.means": value for r in run.regularizers for key, value in r.tensors().items() if key == "means"
    }
    _save_tensors(means, folder / "means.safetensors")
    parts = ("adversaries", "latents", "discriminator", "divergence", "adversary")
    sections = {key: run.config.resolved[key] for key in parts if key in run.config.resolved}
    (folder / "adversary.json").write_text(json.dumps(sections, indent=1), encoding="utf-8")


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def _rotate(root: Path, limit: int | None) -> None:
    """Delete the oldest beyond `limit`, once the newest verifies."""
    folders = sorted(root.glob("step-????????"))
    if limit is None or len(folders) <= limit:
        return
    flaw = find_flaw(folders[-1])
    if flaw is not None:
        raise CheckpointError(f"{folders[-1]}: {flaw} right after it was written; older checkpoints are kept")
    for folder in folders[:-limit]:
        shutil.rmtree(folder)


def _randomness() -> dict[str, Any]:
    numpy: Any = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": [numpy[0], [int(word) for word in numpy[1]], int(numpy[2]), int(numpy[3]), float(numpy[4])],
        "python": [version, list(internal), gauss],
    }


def _set_randomness(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([torch.tensor(words, dtype=torch.uint8) for words in state["cuda"]])
    name, words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _digest(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _under(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(prefix + ".")
