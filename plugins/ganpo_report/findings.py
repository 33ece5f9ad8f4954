"""Plain sentences on what a run's metrics say. Every rule is a function here, with its numbers beside it.

A rule looks at means over the first and the last tenth of the logged lines (`Series.early`, `Series.late`), and says
nothing where what it reads was not logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Literal

from ganpo_report.runs import RunFolder

Level = Literal["good", "note", "warning"]


@dataclass(frozen=True)
class Finding:
    """One sentence or two, and how much it matters."""

    level: Level
    text: str


Rule = Callable[[RunFolder], Iterator[Finding]]

KEPT = 0.02
"""Nats a token within which a response counts as no more and no less probable than before."""
FALLEN = 0.5
"""Nats a token beyond which samples change: every token of the chosen responses is 1.6 times less probable."""
STRONG_FORCE, WEAK_FORCE = 1.0, 1e-3
"""The regularizer's gradient at the latents over the objective's."""
SPIKE = 10.0
"""Times the median that a gradient norm may reach."""
CLIPPED = 0.9
"""Share of logging intervals with a gradient above the clip that counts as always."""
FORGOTTEN = 0.02
"""What held-out accuracy may lose after its best evaluation."""
LONGER = 0.05
"""Relative difference of lengths that a policy can learn instead of quality."""
UNTOLD = 0.05
"""Above one half, within which a critic's accuracy is chance."""
CERTAIN = 0.95
"""Accuracy of a critic that is hardly ever wrong."""


def findings(run: RunFolder) -> list[Finding]:
    """What the rules find in one run, warnings first."""
    found = list(chain.from_iterable(rule(run) for rule in RULES))
    return sorted(found, key=lambda finding: ("warning", "note", "good").index(finding.level))


def not_finite(run: RunFolder) -> Iterator[Finding]:
    """The first value that is no number."""
    for line in (*run.training, *run.held_out):
        if bad := [key for key, value in line.items() if not math.isfinite(value)]:
            yield Finding("warning", f"{bad[0]} is not a number at step {line['step']:.0f}: nothing after it can be trusted.")
            return


def unfinished(run: RunFolder) -> Iterator[Finding]:
    """Fewer steps than were asked for."""
    if not run.training:
        yield Finding("warning", "No metrics were logged: the run ended before its first logging interval.")
        return
    planned = run.card.get("max_steps") or run.settings.get("training.max_steps")
    if isinstance(planned, int) and run.last_step < planned:
        yield Finding("warning", f"Stopped at step {run.last_step} of {planned}; `ganpo train --resume` continues it.")


def margin(run: RunFolder) -> Iterator[Finding]:
    """Whether the policy learned to rank its training pairs."""
    margins, accuracies = run.series("rewards/margins"), run.series("rewards/accuracies")
    if not margins or not accuracies:
        return
    ranked = f"{accuracies.late:.0%} of the training pairs are ranked as labelled"
    if margins.late <= 0 or accuracies.late < 0.5:
        yield Finding(
            "warning",
            f"The margin ends at {margins.late:.3g} and {ranked}: nothing was learned. Look at the learning rate, at the "
            "labels (`ganpo data inspect`), and at an adversary that is stronger than the objective.",
        )
    else:
        yield Finding("good", f"The margin grew to {margins.late:.3g}, and {ranked}.")


def likelihood(run: RunFolder) -> Iterator[Finding]:
    """What became of the responses themselves: a margin alone can grow while both fall."""
    chosen, rejected = shift_per_token(run, "chosen"), shift_per_token(run, "rejected")
    margins = run.series("rewards/margins")
    if chosen is None or rejected is None or not margins:
        return
    if margins.late <= 0 and chosen > -FALLEN:
        return
    rise = "Margin up" if margins.late > 0 else "No margin"
    other = f"the rejected ones moved by {rejected:+.2f}"
    if chosen > KEPT:
        yield Finding("good", f"{rise}, chosen log-probability up {chosen:.2f} nats a token; {other}.")
    elif chosen >= -KEPT:
        yield Finding("good", f"{rise}, chosen log-probability kept ({chosen:+.3f} nats a token); {other}.")
    elif chosen > -FALLEN:
        yield Finding(
            "note",
            f"{rise}, chosen log-probability down {-chosen:.2f} nats a token: usual for {_objective(run)}; {other}. If the "
            "chosen responses should become likelier too, add their likelihood: objective rpo, or sft as a part of weighted.",
        )
    else:
        yield Finding(
            "warning",
            f"{rise}, but chosen log-probability down {-chosen:.2f} nats a token, far beyond what is usual; {other}. The "
            "policy has moved away from its data: lower the learning rate, raise beta, add the likelihood of the chosen "
            "responses (objective rpo), or lower adversary.weight.",
        )


def loss(run: RunFolder) -> Iterator[Finding]:
    """An objective that grew while it was minimized."""
    values = run.series("objective_loss")
    if values and values.late > values.early + 0.1 * abs(values.early):
        yield Finding(
            "warning",
            f"The objective's loss rose from {values.early:.3g} to {values.late:.3g}: the learning rate is too high, or an "
            "adversary works against it.",
        )


def gradients(run: RunFolder) -> Iterator[Finding]:
    """Spikes, and a clip that is always at work."""
    norms = run.series("grad_norm")
    finite = [value for value in norms.values if math.isfinite(value)]
    if not finite:
        return
    middle, largest = median(finite), max(finite)
    if largest > SPIKE * middle > 0:
        step = norms.steps[norms.values.index(largest)]
        yield Finding("note", f"The gradient norm reached {largest:.3g} at step {step}, against {middle:.3g} in the median.")
    clip = run.settings.get("training.max_grad_norm")
    if isinstance(clip, int | float) and clip > 0 and sum(value > clip for value in finite) >= CLIPPED * len(finite):
        yield Finding(
            "note",
            f"The gradient was above the clip of {clip:g} nearly always (median {middle:.3g}): the clip, not the loss, sets "
            "the size of a step.",
        )


def held_out(run: RunFolder) -> Iterator[Finding]:
    """Whether what was learned holds on other pairs."""
    accuracies, trained = run.series("eval_rewards/accuracies"), run.series("rewards/accuracies")
    if not accuracies:
        if trained:
            yield Finding(
                "note",
                "No held-out pairs: learned and memorized cannot be told apart. Give data.eval_path and training.eval_steps.",
            )
        return
    best = max(accuracies.values)
    if best - accuracies.last > FORGOTTEN:
        step = accuracies.steps[accuracies.values.index(best)]
        yield Finding(
            "note",
            f"Held-out accuracy was best at step {step} ({best:.1%}) and is {accuracies.last:.1%} at the end: fewer steps "
            "would have served.",
        )
    elif trained:
        gap = f"{trained.late:.1%} on training pairs"
        yield Finding("good", f"{accuracies.last:.1%} of the held-out pairs are ranked as labelled, against {gap}.")


def lengths(run: RunFolder) -> Iterator[Finding]:
    """Whether length alone tells chosen from rejected."""
    known = run.card.get("data", {}).get("mean_lengths")
    if not known or not known["rejected"] or not known["chosen"]:
        return
    ratio = known["chosen"] / known["rejected"] - 1
    if abs(ratio) > LONGER:
        way = "longer" if ratio > 0 else "shorter"
        yield Finding(
            "note",
            f"Chosen responses are {abs(ratio):.0%} {way} than rejected ones in the data ({known['chosen']:.0f} and "
            f"{known['rejected']:.0f} tokens): a policy can win by length alone, so read win rates with length controlled.",
        )


def critic_warnings(run: RunFolder) -> Iterator[Finding]:
    """What training itself warned of, found again in the log."""
    from ganpo_core.adversary import Health

    for prefix in run.adversaries:
        health = Health(prefix)
        for line in run.training:
            for warning in health.warnings(line):
                text = warning.removeprefix("warning: ")
                yield Finding("warning", f"Step {line['step']:.0f}: {text}.")


def critics(run: RunFolder) -> Iterator[Finding]:
    """What each pair of critics tells apart at the end."""
    for prefix in run.adversaries:
        accuracies = [run.series(f"{prefix}/{side}/accuracy") for side in ("chosen", "rejected")]
        gaps = [run.series(f"{prefix}/{side}/gap") for side in ("chosen", "rejected")]
        if not all(accuracies) or not all(gaps):
            continue
        shown = f"{accuracies[0].late:.0%} and {accuracies[1].late:.0%} of the pairs"
        width = max(abs(gap.late) for gap in gaps)
        if max(accuracy.late for accuracy in accuracies) > CERTAIN:
            yield Finding(
                "note",
                f"{prefix}: the critics know the reference nearly always ({shown}), by {width:.2g} logits at the end: the "
                "policy has left it in a direction that they see.",
            )
        elif sum(accuracy.late for accuracy in accuracies) / len(accuracies) < 0.5 + UNTOLD:
            yield Finding(
                "note",
                f"{prefix}: the critics know the reference no better than by chance ({shown}, gap {width:.2g} logits): the "
                "latents have hardly moved, or the critics cannot see that they did.",
            )
        else:
            yield Finding("good", f"{prefix}: the critics know the reference in {shown}, by {width:.2g} logits at the end.")


def forces(run: RunFolder) -> Iterator[Finding]:
    """How hard each regularizer pushes beside the objective."""
    for prefix in run.adversaries:
        ratio = run.series(f"{prefix}/gradient_ratio")
        if not ratio:
            continue
        if ratio.late > STRONG_FORCE:
            yield Finding(
                "warning",
                f"{prefix}: at the latents its gradient is {ratio.late:.3g} times the objective's: it leads the training. "
                "Lower adversary.weight.",
            )
        elif ratio.late < WEAK_FORCE:
            yield Finding(
                "note",
                f"{prefix}: at the latents its gradient is {ratio.late:.1e} of the objective's: too weak to be felt. Raise "
                "adversary.weight if it is to hold anything.",
            )
        else:
            yield Finding("good", f"{prefix}: at the latents its gradient ends at {ratio.late:.2g} of the objective's.")


def distances(run: RunFolder) -> Iterator[Finding]:
    """How far the latents moved, where a distance says."""
    for prefix in run.adversaries:
        chosen, rejected = (run.series(f"{prefix}/{side}/distance") for side in ("chosen", "rejected"))
        if chosen and rejected:
            kind = run.divergence_of(prefix) or "its distance"
            yield Finding(
                "good",
                f"{prefix}: by {kind}, the latents end {chosen.late:.3g} (chosen) and {rejected.late:.3g} (rejected) away "
                "from the reference's.",
            )


RULES: tuple[Rule, ...] = (
    not_finite, unfinished, margin, likelihood, loss, gradients, held_out, lengths, critic_warnings, critics, forces, distances,
)  # fmt: skip


def shift_per_token(run: RunFolder, side: str) -> float | None:
    """Nats a response token by which the policy finds a side's responses likelier than the reference, at the end."""
    shift, length = run.series(f"shifts/{side}"), run.series(f"lengths/{side}")
    return shift.late / length.late if shift and length and length.late else None


def _objective(run: RunFolder) -> str:
    return str(run.settings.get("objective.use", "the objective")).upper()
