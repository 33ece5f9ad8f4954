"""Combinations that cannot mean anything, refused with the reason before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ganpo_core.config.run import AdversaryPlan

PAIRED_FORMS = ("paired_score", "anchor_score", "feature_matching")
"""Forms of the policy's answer that need nothing from the divergence but a critic."""


def plan_problems(plan: AdversaryPlan, uses: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    """(path, message) of each combination refused; `uses` are the names behind `use:`."""
    divergence, config = plan.divergence, plan.config
    name = uses["divergence"]
    if not divergence.needs_critic:
        if plan.latents.is_learned:
            yield (
                "latents",
                f"latents '{uses['latents']}' learn a transform together with critics, and the distance '{name}' has "
                "none; leave the learned options out (combine: mix, project: learned), or choose a divergence with a critic",
            )
        return
    if plan.discriminator is not None and plan.discriminator.frozen and plan.latents.is_learned:
        yield (
            "latents",
            f"latents '{uses['latents']}' learn a transform together with critics that `frozen: true` keeps from learning",
        )
    if plan.cross_weight > 0 and plan.latents.shared_by_sides:
        yield (
            "adversary.cross_weight",
            f"latents '{uses['latents']}' are the same for chosen and rejected, which share their images: the cross term "
            "would set a thing above itself; set cross_weight: 0, or leave it out",
        )
    if plan.cross_weight > 0 and not divergence.allows_cross:
        yield (
            "adversary.cross_weight",
            f"divergence '{name}' with cross_weight {plan.cross_weight:g}: the policy's scores cancel out of its critic "
            "loss when a cross term is added; set cross_weight: 0",
        )
    if divergence.needs_lipschitz and plan.discriminator is not None and not plan.discriminator.lipschitz:
        constraint = getattr(divergence, "constraint", None)
        chosen = f" with constraint: {constraint}" if constraint else ""
        yield (
            "divergence",
            f"divergence '{name}'{chosen} needs a Lipschitz discriminator; '{uses['discriminator']}' is not",
        )
    if config.form not in (*PAIRED_FORMS, *divergence.forms):
        known = ", ".join((*divergence.forms, *PAIRED_FORMS))
        yield "adversary.form", f"divergence '{name}' has no form '{config.form}'; it offers: {known}"


def step_problems(plan: AdversaryPlan, num_micro_batches: int) -> Iterator[tuple[str, str]]:
    """(path, message) of options that contradict how a step is put together."""
    config = plan.config
    if not plan.divergence.needs_critic:
        return
    if config.means_detach == "policy" and num_micro_batches > 1 and config.means_clock == "step":
        yield (
            "adversary.means_detach",
            "means_detach: policy differentiates through the means of a whole step, which its micro-batches cannot; "
            "set gradient_accumulation_steps: 1, or means_clock: micro",
        )
    if config.form == "full" and num_micro_batches > 1:
        yield (
            "adversary.form",
            "form: full differentiates through the mean of all of a step's scores, which its micro-batches cannot; "
            "set gradient_accumulation_steps: 1, or form: non_saturating",
        )
    if config.schedule == "legacy" and config.step_every > 1:
        yield "adversary.step_every", "schedule: legacy has a step rule of its own; remove step_every"


def plan_notes(plan: AdversaryPlan, num_micro_batches: int) -> Iterator[str]:
    """What a user should know about a combination that is allowed."""
    where = f"adversary '{plan.name}'"
    if plan.config.weight == 0:
        yield f"{where}: weight is 0, so it is not built: this is plain preference optimisation"
        return
    if not plan.divergence.additive and num_micro_batches > 1:
        yield (
            f"{where}: the divergence compares the rows of a micro-batch with each other, so "
            "gradient_accumulation_steps changes it; prefer larger micro-batches, or distances of single tokens"
        )
    if plan.divergence.cross_weight > 0 and plan.latents.shared_by_sides:
        yield f"{where}: chosen and rejected share these latents, so the cross term is off (cross_weight 0)"
    if not plan.divergence.needs_critic and plan.discriminator is not None:
        yield f"{where}: a direct distance uses no discriminator; that section is ignored"
