"""Plans become regularizers. Critics draw their first weights from a generator of their own."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ganpo_core.adversary.critic import Critic
from ganpo_core.adversary.critics import Critics
from ganpo_core.adversary.game import CriticGame
from ganpo_core.adversary.means import RunningMeans
from ganpo_core.adversary.official import ReleasedGame
from ganpo_core.adversary.regularizer import DirectDistance, Gather, Reduce, Regularizer
from ganpo_core.adversary.standard import Standard
from ganpo_core.config import AdversaryPlan, RunConfig
from ganpo_core.config.run import options_of
from ganpo_core.errors import ConfigError
from ganpo_core.randomness import own_devices
from ganpo_core.schedules import Schedule
from ganpo_core.types import Latents

PAIRS_MEASURED = 64
"""Pairs on which the reference's latents are measured, where they are standardized."""


def build_regularizers(
    config: RunConfig,
    reference_latents: Callable[[AdversaryPlan, int], Iterator[Latents]],
    dtype: torch.dtype,
    device: torch.device,
    max_steps: int,
    reduce: Reduce,
    gather: Gather,
) -> tuple[list[Regularizer], list[str]]:
    """The regularizers of a run, and notes for its user.

    `reference_latents(plan, num_pairs)` gives what a plan's extractor makes of the reference on the run's first pairs.
    """
    notes: list[str] = []
    regularizers: list[Regularizer] = []
    for plan in config.adversaries:
        if plan.divergence.needs_critic:
            latent_dim = next(reference_latents(plan, 1)).states.shape[-1]
            game, more = _build_game(plan, config, latent_dim, dtype, device, max_steps, reduce)
            regularizers.append(game)
            notes += more
        else:
            regularizers.append(DirectDistance(plan, max_steps, reduce, device, gather))
        if plan.latents.is_standardized:
            regularizers[-1].standard = Standard.measure(reference_latents(plan, PAIRS_MEASURED))
    return regularizers, notes


def _build_game(
    plan: AdversaryPlan,
    config: RunConfig,
    latent_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    max_steps: int,
    reduce: Reduce,
) -> tuple[CriticGame, list[str]]:
    assert plan.discriminator is not None
    # The critics compute in the policy's autocast; their weights, like the policy's, are at least float32.
    dtype = torch.promote_types(dtype, torch.float32)
    with _own_randomness(config.seed, plan.name):
        cold = plan.config.spectral_norm == "forward"
        critics = [Critic(plan.discriminator, plan.latents, latent_dim, dtype, cold).to(device) for _ in range(2)]
    plan, notes = _settle_form(plan, critics[0])
    notes += _resolved(plan)
    settings = plan.config
    rate = settings.learning_rate
    if rate is None:
        assert settings.learning_rate_ratio is not None
        rate = settings.learning_rate_ratio * config.training.learning_rate
    weights = [weight for critic in critics for weight in critic.parameters() if weight.requires_grad]
    optimizer: torch.optim.Optimizer | None = None
    schedule: Schedule | None = None
    if weights:
        optimizer = torch.optim.AdamW(
            weights,
            lr=rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            weight_decay=settings.weight_decay,
        )
        # Of the critics' own steps; the released trainer counts all (schedule: legacy refuses step_every).
        own_steps = max(1, max_steps // settings.step_every)
        warmup = round(settings.warmup_ratio * own_steps)
        schedule = Schedule(settings.lr_scheduler_type, optimizer, warmup, own_steps)
    together = Critics(critics, optimizer, schedule, settings.max_grad_norm, reduce)
    means = RunningMeans(settings, device, dtype)
    num_processes = int(reduce(torch.ones((), device=device)).item())
    if num_processes > 1 and (settings.form == "full" or settings.means_detach == "policy"):
        notes.append(f"adversary '{plan.name}': each process differentiates through its own mean, not through that of all")
    if num_processes > 1 and settings.means_reduce == "local":
        # Checkpoints hold what every process shares; means that differ between processes cannot be among it.
        notes.append(f"adversary '{plan.name}': means are local; a resumed run continues from the main process's")
    if settings.schedule == "legacy":
        released = ReleasedGame(plan, max_steps, together, means, reduce)
        released.num_processes = num_processes
        return released, notes
    return CriticGame(plan, max_steps, together, means, reduce), notes


def _settle_form(plan: AdversaryPlan, critic: Critic) -> tuple[AdversaryPlan, list[str]]:
    """Feature matching needs a critic with features; a preset gives way to the paired score, a file does not."""
    if plan.config.form != "feature_matching" or critic.offers_features:
        return plan, []
    name = type(plan.discriminator).__name__
    if plan.form_is_given:
        raise ConfigError(
            f"adversary.form: feature_matching needs a critic that offers `features(states, mask)`; {name} does not. "
            "Add the method, or choose `form: paired_score`"
        )
    settings = dataclasses.replace(plan.config, form="paired_score")
    note = f"adversary '{plan.name}': {name} offers no features, so the policy answers with form: paired_score"
    return dataclasses.replace(plan, config=settings), [note]


def _resolved(plan: AdversaryPlan) -> Iterator[str]:
    """What a preset came to, and what to read its estimate against."""
    options = options_of(plan.config) | {"cross_weight": plan.cross_weight}
    told = ", ".join(f"{name} {value}" for name, value in options.items() if value is not None)
    yield f"adversary '{plan.name}': {told}"
    low, high = plan.divergence.estimate_range
    yield f"adversary '{plan.name}': its estimate lies between {low:.4g} and {high:.4g} for the best critic"


@contextmanager
def _own_randomness(seed: int, name: str) -> Iterator[None]:
    """First weights depend on the seed and the adversary's name, and leave the policy's randomness alone."""
    # The seed goes to the GPU's generator too.
    with torch.random.fork_rng(devices=own_devices()):
        torch.manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        yield
