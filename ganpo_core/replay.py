"""A step that was stopped, kept so that it can be run again: the pairs, the state before it, the random generators."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from ganpo_core.assemble import assemble
from ganpo_core.checkpoint import gather_weights, save_tensors, size_of
from ganpo_core.config import load_run
from ganpo_core.data import PairDataset, PairOrder
from ganpo_core.data.flaws import RowError
from ganpo_core.data.kept import from_plain, to_plain
from ganpo_core.errors import CheckpointError, NotFiniteError
from ganpo_core.folders import find_flaw, step_name, write_folder
from ganpo_core.metrics import MetricSums
from ganpo_core.parallel import on_main
from ganpo_core.randomness import as_plain, set_randomness
from ganpo_core.resume import load_state
from ganpo_core.run import Run
from ganpo_core.step import train_step
from ganpo_core.weights import not_finite

FOLDER = "replay"
BUNDLE = "bundle.json"
IMAGES = "images.safetensors"
"""What the model is given of the pairs' images; absent where they have none."""
FILES = (BUNDLE, "pairs.json", "policy.safetensors", "adversary.safetensors", "frozen.safetensors")
MOST_ROWS = 256
"""Rows that are run one by one to find the one at fault."""


@dataclass(frozen=True)
class Replayed:
    """What running a step again showed."""

    recorded: tuple[str, ...]
    found: tuple[str, ...]
    """What was not finite, then and now."""
    message: str
    modules: tuple[str, ...]
    """Where a value that is not finite first came from values that are."""
    rows: tuple[str, ...]
    """Rows that do it alone; empty where none or all of them do."""

    @property
    def is_reproduced(self) -> bool:
        """Whether the same is not finite again."""
        return bool(self.found) and set(self.found) == set(self.recorded)


def write_bundle(
    run: Run, step: int, before: Mapping[str, Any], error: NotFiniteError, say: Callable[[str], None]
) -> Path | None:
    """Write the bundle of a step counted from 0 that was stopped; collective.

    Returns its folder, under output_dir; None where it cannot be written, which is said.
    """
    folder = run.config.output_dir / FOLDER / step_name(step + 1)
    tensors = gather_weights(run)
    held = {**run.models.weights(), **run.models.computed()}
    frozen = {name: held[name] for name in not_finite(held) if name not in tensors["policy"]}

    def write_all() -> None:
        indices = run.order.indices(run.place(step), run.pairs_per_step + 1)
        # A dataset holds its sources one after the other; the order of the step is kept beside it.
        # Latents of images want an image to begin with, and a step may be without one.
        kept = sorted({*indices, *run.pairs.with_images[:1]})
        try:
            pairs, images = to_plain([run.pairs[index] for index in kept])
        except RowError as flaw:
            raise CheckpointError(f"{folder}: an image of the step cannot be read again: {flaw.detail}") from flaw
        bundle = {
            "step": step,
            "found": error.found,
            "rows": list(error.rows),
            "message": str(error),
            "num_processes": run.accelerator.num_processes,
            "packing": run.plan.packing,
            "order": [kept.index(index) for index in indices],
            "first_pair": run.first_pair,
            "pairs_per_epoch": run.order.pairs_per_epoch,
            "adversary": {regularizer.plan.name: regularizer.state() for regularizer in run.regularizers},
            "statistics": run.statistics.state(),
            "randomness": as_plain(before),
            "run": dict(run.config.resolved),
        }
        texts = {BUNDLE: json.dumps(bundle), "pairs.json": json.dumps(pairs)}
        files = {**tensors, "frozen": frozen, **({Path(IMAGES).stem: images} if images else {})}

        def write(aside: Path) -> None:
            for name, own in files.items():
                save_tensors(own, aside / f"{name}.safetensors")
            for name, text in texts.items():
                (aside / name).write_text(text, encoding="utf-8")

        write_folder(folder, write, size_of(files) + sum(map(len, texts.values())))

    try:
        on_main(run.accelerator, write_all)
    except CheckpointError as failure:
        # What stopped the run matters more than its bundle: say why there is none, and let the first error stand.
        say(f"no replay bundle: {failure}")
        return None
    return folder


def replay(folder: Path) -> Replayed:
    """Run the step of a bundle again, in one process. Raises CheckpointError for a folder that is no whole bundle."""
    if flaw := find_flaw(folder, FILES):
        raise CheckpointError(f"{folder}: is no replay bundle that can be trusted: {flaw}")
    bundle = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
    if "pairs_per_epoch" not in bundle:
        raise CheckpointError(f"{folder}: was written by an older version of ganpo, which can replay it")
    images = load_file(folder / IMAGES) if (folder / IMAGES).exists() else {}
    pairs = PairDataset(from_plain(json.loads((folder / "pairs.json").read_text(encoding="utf-8")), images))
    settings = bundle["run"]["training"]
    config = load_run(
        bundle["run"],
        {
            "training.packing": bundle["packing"],
            "training.parallelism": "ddp",
            "training.gradient_accumulation_steps": settings["gradient_accumulation_steps"] * bundle["num_processes"],
        },
    )
    run = assemble(config, Accelerator(), pairs, _Recorded(bundle["order"], bundle["pairs_per_epoch"]))
    run.first_pair = bundle["first_pair"]
    tensors = {name: load_file(folder / f"{name}.safetensors") for name in ("policy", "adversary", "frozen")}
    if (folder / "reference.safetensors").exists():
        tensors["reference"] = load_file(folder / "reference.safetensors")

    def again(indices: Sequence[int] | None = None) -> NotFiniteError | None:
        run.models.policy.zero_grad(set_to_none=True)
        load_state(run, tensors, bundle)
        with torch.no_grad():
            weights = {**run.models.weights(), **run.models.computed()}
            for name, value in tensors["frozen"].items():
                weights[name].copy_(value)
        set_randomness(bundle["randomness"])
        window = run.window(bundle["step"]) if indices is None else [run.batch(run.pairs, list(indices))]
        try:
            train_step(run, window, bundle["step"], MetricSums(run.models.device))
        except NotFiniteError as error:
            return error
        return None

    with _watched(run) as seen:
        error = again()
    rows: list[str] = []
    if error is not None and run.pairs_per_step <= MOST_ROWS:
        indices = bundle["order"][: run.pairs_per_step]
        rows = [f"{pairs[index].source} row {pairs[index].row}" for index in indices if again([index]) is not None]
        rows = rows if len(rows) < len(indices) else []
    found = () if error is None else tuple(error.found)
    return Replayed(tuple(bundle["found"]), found, "" if error is None else str(error), tuple(seen), tuple(rows))


class _Recorded(PairOrder):
    """The pairs of one step, whatever step is asked for, of a run whose epochs were as long as they were."""

    def __init__(self, recorded: Sequence[int], pairs_per_epoch: int) -> None:
        super().__init__([pairs_per_epoch], [1.0], seed=0)
        self._recorded = list(recorded)

    def indices(self, start: int, count: int) -> list[int]:
        return self._recorded[:count]


@contextmanager
def _watched(run: Run) -> Iterator[list[str]]:
    """Gathers, in order, where values that are not finite come out of a module that only finite ones went into."""
    seen: dict[str, None] = {}
    modules: dict[str, nn.Module] = {f"policy {name}": module for name, module in run.models.policy.named_modules()}
    if run.models.reference is not None:
        modules |= {f"reference {name}": module for name, module in run.models.reference.named_modules()}
    for regularizer in run.regularizers:
        for side, critic in regularizer.modules().items():
            modules |= {f"{regularizer.prefix} {side} critic {name}": part for name, part in critic.named_modules()}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
            if not _finite(output) and _finite((arguments, named)):
                own = not_finite({key: weight.detach() for key, weight in module.named_parameters(recurse=False)})
                seen.setdefault(f"{name}: its output{f', from its {own[0]}' if own else ''}")
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(back(name))  # type: ignore[no-untyped-call]

        return hook

    def back(name: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not bool(gradient.isfinite().all()) and not seen:
                seen.setdefault(f"{name}: the gradient that comes back to its output")

        return hook

    handles = [module.register_forward_hook(watch(name), with_kwargs=True) for name, module in modules.items()]
    found: list[str] = []
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        found.extend(seen)


def _finite(value: Any) -> bool:
    # -inf is what masks of attention hold by design.
    return not any(bool(tensor.isnan().any() | (tensor == float("inf")).any()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for child in value.values():
            yield from _tensors(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _tensors(child)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _tensors(getattr(value, name))
