"""All of a run's state to disk, and the finished run's folders. A folder is complete or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors.torch import save_file
from torch import Tensor

from ganpo_core.folders import find_flaw, rotate, step_name, write_folder
from ganpo_core.identity import identity
from ganpo_core.metrics import MetricSums
from ganpo_core.models import save_policy
from ganpo_core.moments import moments
from ganpo_core.output import CHECKPOINTS, REQUIRED, STATE, OutputFolder
from ganpo_core.parallel import broadcast, gathered, on_main, whole_weights
from ganpo_core.randomness import as_plain, randomness
from ganpo_core.run import Run
from ganpo_core.soundness import check_reference, check_weights

MARGIN = 1 << 16
"""Bytes beside the tensors' own that a folder takes: headers, manifest, the folder itself."""
Tensors = dict[str, dict[str, Tensor]]
"""By file."""


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
    if moving := moving_reference(run):
        tensors["reference"] = {name: gathered(weight.detach(), is_main) for name, weight in moving.items()}
    return tensors


def moving_reference(run: Run) -> dict[str, torch.nn.Parameter]:
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
