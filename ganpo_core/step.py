"""One optimizer step: the objective and the regularizers, one policy backward per micro-batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ganpo_core.adversary import LatentBatch, LatentForces, Regularizer, Totals
from ganpo_core.data import PairBatch
from ganpo_core.errors import TrainingError
from ganpo_core.forward import Pass, Wanted, known_pass, response_pass
from ganpo_core.latents import read_latents, read_sources
from ganpo_core.losses import Losses, Scored, objective_losses
from ganpo_core.metrics import MetricSums
from ganpo_core.parallel import sync_reference, synchronize_gradients, whole
from ganpo_core.run import Run
from ganpo_core.soundness import StepLosses, all_finite, not_finite_error
from ganpo_core.types import Source

START_GAP = 1e-3
"""Nats by which policy and reference may differ on a response before the first update."""


def train_step(
    run: Run,
    window: Sequence[PairBatch],
    step: int,
    metrics: MetricSums,
    stop: Callable[[], int] = lambda: 0,
) -> int:
    """Update critics and policy once; returns the signal by which any process wants to stop, 0 for none.

    `stop` says what this process wants. Raises NotFiniteError, on all processes and with critics and policy as they were,
    where a value is not finite.
    """
    for regularizer in run.regularizers:
        regularizer.begin_step(step, len(window), run.schedule_step(step))
    totals = {regularizer: _totals(run, regularizer, window) for regularizer in run.regularizers}
    known = run.statistics.begin_step(window, mismatched_passes(run, step), run.sum_over_processes)
    ahead = [regularizer for regularizer in run.regularizers if regularizer.looks_ahead]
    if ahead and len(window) > 1:
        _look_ahead(run, ahead, window, totals, metrics)
    losses = StepLosses()
    for index, batch in enumerate(window):
        with synchronize_gradients(run.models, last=index == len(window) - 1):
            reference = reference_pass(run, batch)
            policy = policy_pass(run, batch, against=reference.logits)
            if step == 0 and index == 0:
                check_start(run, policy, reference)
            _backward(run, batch, policy, reference, step, len(window), totals, known, metrics, losses)
    wanted = _update(run, window, step, losses, metrics, stop)
    metrics.finish_step()
    return wanted


def policy_pass(run: Run, batch: PairBatch, logps: bool = True, against: Tensor | None = None) -> Pass:
    """The policy's log-probabilities and the hidden states that the extractors ask for.

    `against` are the reference's logits, where the objective compares whole distributions.
    """
    objective, routes = run.config.objective, run.config.training.router_aux_loss_coef is not None
    wanted = Wanted(
        "policy",
        objective.token_statistics,
        token_ids="token_ids" in objective.needs,
        prompt="prompt" in objective.needs,
        reference_logits=against,
        router_loss=logps and routes,
    )
    widths = run.models.image_widths
    with run.watchdog.phase("policy pass"):
        return response_pass(
            run.models.run_policy, run.models.policy, batch, _sources(run), logps, wanted, run.plan.head, widths
        )


def reference_pass(run: Run, batch: PairBatch, logps: bool = True) -> Pass:
    """The same of the reference, without gradients; nothing at all where nobody reads it."""
    if not run.needs_reference:
        return Pass(None)
    logps = logps and run.config.objective.needs_reference
    if batch.reference is not None:
        return known_pass(batch, batch.reference)
    with run.watchdog.phase("reference pass"), run.models.as_reference() as reference:
        wanted = Wanted("reference", run.config.objective.token_statistics)
        widths = run.models.image_widths
        return response_pass(reference, reference, batch, _sources(run), logps, wanted, run.plan.head, widths)


def mismatched_passes(run: Run, step: int) -> Iterator[Scored]:
    """Responses after other pairs' prompts, of the whole step, where the objective must know how likely they are."""
    if run.statistics.needs_mismatched:
        for batch in run.mismatched_window(step):
            yield score(run, batch)


@torch.no_grad()
def score(run: Run, batch: PairBatch) -> Scored:
    """Log-probabilities alone, without gradients."""
    head = run.plan.head
    policy = response_pass(run.models.run_policy, run.models.policy, batch, head=head).logps
    assert policy is not None
    if not run.config.objective.needs_reference:
        return batch, policy, None
    with run.models.as_reference() as reference:
        return batch, policy, response_pass(reference, reference, batch, head=head).logps


def note_losses(metrics: MetricSums, losses: Losses, prefix: str = "") -> None:
    """Add what TRL logs of every pair, under TRL's names."""
    for name, values in losses.metrics.items():
        metrics.add(prefix + name, values)


def check_start(run: Run, policy: Pass, reference: Pass) -> None:
    """Policy and reference are the same model before the first update, unless the file names another reference."""
    if policy.logps is None or reference.logps is None or run.config.model.reference or not run.config.model.disable_dropout:
        return
    # Kept values may be those of another batch, so the policy's may differ from them by as much again.
    kept = run.reference_cache
    slack = 0.0 if kept is None else kept.tolerance
    sides = ((policy.logps.chosen, reference.logps.chosen), (policy.logps.rejected, reference.logps.rejected))
    gaps = torch.stack([(mine.total.detach() - theirs.total).abs() for mine, theirs in sides])
    allowed = START_GAP + slack * torch.stack([mine.length for mine, _ in sides])
    if float((gaps - allowed).max()) > 0:
        raise TrainingError(
            f"policy and reference differ by {float(gaps.max()):.3g} nats on a response before the first update; they should "
            "be the same model. If another anchor is meant, name it with model.reference"
            + ("" if kept is None else "; if not, delete the folder of training.reference_cache, whose values may be damaged")
        )


def _backward(
    run: Run,
    batch: PairBatch,
    policy: Pass,
    reference: Pass,
    step: int,
    num_micro_batches: int,
    totals: Mapping[Regularizer, Totals],
    known: Mapping[str, Tensor],
    metrics: MetricSums,
    step_losses: StepLosses,
) -> None:
    """Accumulate the policy's gradient of one micro-batch, and note its part of the step's loss."""
    assert policy.logps is not None
    # Data parallelism averages gradients over processes; shares of the whole step are to be added up.
    world = run.accelerator.num_processes
    here = run.statistics.of_batch((batch, policy.logps, reference.logps), run.gather_own_first)
    with run.watchdog.phase("objective"):
        losses = objective_losses(run.config.objective, batch, policy.logps, reference.logps, {**known, **here})
    note_losses(metrics, losses)
    objective = losses.per_item.sum() / run.pairs_per_step
    if policy.router_loss is not None:
        coefficient = run.config.training.router_aux_loss_coef or 0.0
        share = batch.num_pairs / run.pairs_per_step
        metrics.add_part("router_loss", policy.router_loss * share)
        objective = objective + coefficient * share * policy.router_loss
    total = objective.detach()
    forces = LatentForces(policy.states, policy.layout)
    for regularizer in run.regularizers:
        with run.watchdog.phase("critics"), run.models.autocast():
            latents = _latent_batch(regularizer, batch, forces.rows(), reference.captured)
            if num_micro_batches == 1 and regularizer.looks_ahead:
                regularizer.prepare([latents.detach()], totals[regularizer], metrics)
            penalty = regularizer.penalty(latents, totals[regularizer], metrics)
        weight, scale = regularizer.weight, regularizer.scale
        forces.add(regularizer, penalty * (weight * world))
        total = total + weight * scale * penalty.detach()
        metrics.add_part(f"{regularizer.prefix}/penalty", penalty)
        metrics.add(f"{regularizer.prefix}/weight", (penalty.detach() * 0 + weight) * scale)
    with run.watchdog.phase("backward"):
        forces.backward(objective * world)
    metrics.add_part("loss", total)
    step_losses.parts.append(total)
    step_losses.per_item.append(losses.per_item.detach())


def _update(
    run: Run,
    window: Sequence[PairBatch],
    step: int,
    losses: StepLosses,
    metrics: MetricSums,
    stop: Callable[[], int],
) -> int:
    """Clip, check that everything is finite on every process, then update critics and policy."""
    limit = run.config.training.max_grad_norm
    weights = list(run.models.trainable().values())
    with run.watchdog.phase("gradient norm"):
        norm = whole(nn.utils.clip_grad_norm_(weights, math.inf if limit is None else limit))
    at_stake = {"loss": torch.stack(losses.parts), "policy's gradient": norm, **run.statistics.settle()}
    for regularizer in run.regularizers:
        at_stake |= regularizer.settle()
    found, wanted = all_finite(run, at_stake, stop)
    if found:
        for regularizer in run.regularizers:
            regularizer.undo_step()
        run.statistics.undo_step()
        raise not_finite_error(run, window, step, losses, found, norm)
    metrics.add("grad_norm", norm)
    for regularizer in run.regularizers:
        regularizer.finish_step(metrics)
    run.statistics.finish_step(run.sum_over_processes)
    run.schedule.set_rate(run.schedule_step(step))
    run.optimizer.step()
    sync = run.config.training.sync_reference
    if sync is not None and (step + 1) % sync.every == 0:
        sync_reference(run.models, sync.mixup)
    run.optimizer.zero_grad(set_to_none=True)
    return wanted


def _look_ahead(
    run: Run,
    regularizers: Sequence[Regularizer],
    window: Sequence[PairBatch],
    totals: Mapping[Regularizer, Totals],
    metrics: MetricSums,
) -> None:
    """Show regularizers the latents of the whole step first: one more forward pass, without gradients."""
    with torch.no_grad():
        passes = [
            (batch, policy_pass(run, batch, logps=False), reference_pass(run, batch, logps=False)) for batch in window
        ]
    for regularizer in regularizers:
        with run.models.autocast():
            latents = [
                _latent_batch(regularizer, batch, policy.captured, reference.captured).detach()
                for batch, policy, reference in passes
            ]
            regularizer.prepare(latents, totals[regularizer], metrics)


def _latent_batch(
    regularizer: Regularizer,
    batch: PairBatch,
    policy: Mapping[Source, Tensor],
    reference: Mapping[Source, Tensor],
) -> LatentBatch:
    extractor = regularizer.plan.latents
    return LatentBatch(
        regularizer.view(read_latents(extractor, policy, batch.tokens)),
        regularizer.view(read_latents(extractor, reference, batch.tokens).detach()),
        regularizer.count(batch.tokens),
    )


def _totals(run: Run, regularizer: Regularizer, window: Sequence[PairBatch]) -> Totals:
    counts = [torch.stack([regularizer.count(batch.tokens), regularizer.count_rows(batch.tokens)]) for batch in window]
    positions, rows = run.sum_over_processes(torch.stack(counts).sum(0))
    return Totals(run.pairs_per_step, positions, rows)


def _sources(run: Run) -> tuple[Source, ...]:
    found = [source for r in run.regularizers for source in read_sources(r.plan.latents, run.models.policy)]
    return tuple(dict.fromkeys(found))

