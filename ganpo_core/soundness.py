"""Whether everything of a step is finite: asked once, before anything is updated, and answered with names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ganpo_core.asking import method_name
from ganpo_core.data import PairBatch
from ganpo_core.errors import NotFiniteError, TrainingError
from ganpo_core.interrupts import SIGNALS
from ganpo_core.moments import moments
from ganpo_core.run import Run
from ganpo_core.weights import bit_sums, frozen_weights, not_finite


@dataclass
class StepLosses:
    """A step's loss on this process, by micro-batch; nothing here waits for the device."""

    parts: list[Tensor] = field(default_factory=list)
    """This process's part of the step's loss, objective and penalties."""
    per_item: list[Tensor] = field(default_factory=list)
    """[B] each, of the objective alone."""


def all_finite(run: Run, at_stake: Mapping[str, Tensor], stop: Callable[[], int]) -> tuple[dict[str, float], int]:
    """What is not finite on how many processes, and the signal by which one of them wants to stop, 0 for none.

    The one place of a step that waits for the device. Every process reads the same sums, so all of them stop together.
    """
    flags = torch.stack([(~value.isfinite()).any().double() for value in at_stake.values()])
    wanted = stop()
    asked = flags.new_tensor([float(wanted == number) for number in SIGNALS])
    counts = run.sum_over_processes(torch.cat([flags, asked])).tolist()
    flawed = {name: count for name, count in zip(at_stake, counts, strict=False) if count}
    return flawed, next((int(number) for number, count in zip(SIGNALS, counts[len(flags) :], strict=True) if count), 0)


def not_finite_error(
    run: Run, window: Sequence[PairBatch], step: int, losses: StepLosses, found: Mapping[str, float], norm: Tensor
) -> NotFiniteError:
    """What to tell of a step that was stopped, as far as this process knows without running anything again."""
    items = [item for part in losses.per_item for item in part.tolist()]
    places = [f"{source} row {row}" for batch in window for source, row in batch.pair_ids]
    flawed = [f"{place} (loss {item:g})" for place, item in zip(places, items, strict=True) if not math.isfinite(item)]
    blamed = method_name(run.config.objective, "loss")
    gradients = {name: weight.grad for name, weight in run.models.trainable().items() if weight.grad is not None}
    told = [
        f"step {step + 1}: {', '.join(found)} is not finite; the policy was not updated, nor was anything else "
        f"(loss {float(torch.stack(losses.parts).sum()):g}, gradient norm {float(norm):g})"
    ]
    if spoilt := not_finite(run.models.weights()):
        told.append(f"Weights that are not finite: {_few(spoilt)}")
    elif spoilt := [name for name, buffer in run.models.computed().items() if bool(buffer.isnan().any())]:
        told.append(f"Values that the model computed when it was loaded are not numbers: {_few(spoilt)}")
    elif flawed:
        told.append(f"{blamed} itself gave such values; if it is your own, write it with `softplus`")
    elif suspect := next((name for regularizer in run.regularizers if (name := regularizer.suspect())), None):
        told.append(f"{suspect} itself gave such values")
    elif spoilt := not_finite(gradients):
        told.append(f"Gradients that are not finite: {_few(spoilt)}")
    told.append(f"{'Rows' if flawed else 'The pairs of the step here'}: {_few(flawed or places)}")
    told.append("Look at them with `ganpo data inspect`, or lower training.learning_rate")
    return NotFiniteError(". ".join(told), found, flawed)


def check_weights(run: Run) -> None:
    """Raises TrainingError, on all processes, where policy, reference or an adversary holds a value that is not finite."""
    weights = {**run.models.weights()}
    for regularizer in run.regularizers:
        weights |= {f"{regularizer.prefix} {name}": tensor for name, tensor in regularizer.tensors().items()}
    for name, weight in run.models.trainable().items():
        weights |= {f"optimizer {name}.{key}": tensor for key, tensor in moments(run.optimizer, weight).items()}
    names = not_finite(weights)
    if float(run.sum_over_processes(torch.tensor(float(len(names)), device=run.models.device))):
        raise TrainingError(
            f"weights that are not finite: {_few(names) or 'on another process'}; nothing was trained or saved with them. "
            "Use another model.path, or an earlier checkpoint"
        )


def check_reference(run: Run) -> None:
    """Raises TrainingError, on all processes, where the reference is no longer what it was at the start."""
    if run.reference_sums is None:
        return
    weights = frozen_weights(run.models)
    sums = bit_sums(weights.values())
    assert sums is not None
    changed = sums != run.reference_sums
    if float(run.sum_over_processes(changed.any().double())):
        names = [name for name, is_changed in zip(weights, changed.tolist(), strict=True) if is_changed]
        raise TrainingError(
            f"the reference has changed during the run: {_few(names) or 'on another process'}. It is frozen, so either "
            "memory is damaged or a plugin writes into it; continue from the last checkpoint with --resume"
        )


def _few(names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
