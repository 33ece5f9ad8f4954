"""The work of a critic, counted on its own code, so that it holds for any plugin's."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganpo_core.adversary.critic import Critic
from ganpo_core.components import Discriminator
from ganpo_core.config import AdversaryPlan
from ganpo_core.plan.measure import count_flops, saved_bytes, without_values, written_out
from ganpo_core.types import Latents


@dataclass(frozen=True)
class CriticFlops:
    """FLOPs of one critic for each token of a row of a given length."""

    forward: float
    to_weights: float
    """The backward pass that trains it."""
    to_latents: float
    """The backward pass that the policy's gradient takes through it."""

    def per_pair_token(self, passes: Passes) -> float:
        """Of all passes over the rows of a pair, for each token of its two sequences."""
        # Two critics share 2 rows a group: n rows of a pair are n / 2 passes over both of its sequences.
        rows = passes.scored * self.forward + passes.trained * self.to_weights + passes.answered * self.to_latents
        return rows / 2


@dataclass(frozen=True)
class Passes:
    """How many rows the two critics together read for each pair."""

    scored: int
    trained: int
    answered: int
    """Rows that the policy's gradient runs back through: all that share a forward pass with the policy's."""
    looks_ahead: bool = False
    """Whether policy and reference run over the whole step once more, before the pass that trains the policy."""

    @classmethod
    def of(cls, plan: AdversaryPlan, micro_batches: int = 1) -> Passes:
        """The passes of an adversary: one that all groups share, unless schedule or dropout ask for two."""
        config = plan.config
        groups = 6 if plan.cross_weight > 0 else 4
        alternates = config.schedule == "alternating"
        has_means = plan.divergence.baseline == "group_mean" or config.form == "anchor_score"
        of_this_step = config.means_order == "update_then_use" or config.means != "all"
        settles = micro_batches > 1 and has_means and of_this_step and config.means_clock == "step"
        apart = alternates or config.dropout != "both"
        frozen = plan.discriminator is not None and plan.discriminator.frozen
        return cls(
            scored=groups + (4 if apart else 0) + (groups if settles else 0),
            trained=0 if frozen else groups,
            answered=4 if apart else groups,
            looks_ahead=settles or (alternates and micro_batches > 1),
        )


SHARED = Passes(6, 6, 6)
"""Both critics with a cross term, and one forward pass that critics and policy share."""


def critic_overhead(
    critic: CriticFlops, policy_parameters: float, passes: Passes = SHARED, checkpointing: bool = False
) -> float:
    """What the two critics of a game add to plain DPO, as a part of it; a policy's pass is 2 FLOPs a parameter."""
    policy_passes = 5 if checkpointing else 4  # forward, backward worth two, the reference's; the forward pass again
    return critic.per_pair_token(passes) / (2 * policy_parameters * policy_passes)


@dataclass(frozen=True)
class CriticMemory:
    """Bytes of one critic."""

    weights: int
    trained: int
    """Of its weights, those that are trained."""
    saved_per_token: float
    """What its backward pass keeps, for each token of a row."""


def critic_flops_per_token(critic: Discriminator | nn.Module, latent_dim: int, length: int) -> CriticFlops:
    """Count a critic's matrix products on a row of `length` latents of width `latent_dim`.

    `critic` is a discriminator, or a module `forward(states [N, S, H], mask [N, S]) -> [N]`. Nothing is computed
    unless its code depends on values.
    """
    try:
        with without_values():
            return _counted(critic, latent_dim, length)
    except RuntimeError:  # its code branches on values: the same counts, at the price of computing them
        return _counted(critic, latent_dim, length)


def count_parameters(discriminator: Discriminator, latent_dim: int) -> int:
    """Of one critic."""
    with torch.device("meta"):
        module = discriminator.build(latent_dim)
    return sum(weight.numel() for weight in module.parameters())


def plan_critic(
    plan: AdversaryPlan, latent_dim: int, dtype: torch.dtype, length: int
) -> tuple[CriticFlops, CriticMemory]:
    """The same of an adversary's critic, with any learned transform before it, and what it keeps in memory."""
    assert plan.discriminator is not None
    try:
        with without_values():
            return _planned(plan, latent_dim, dtype, length)
    except RuntimeError:
        return _planned(plan, latent_dim, dtype, length)


class _Scoring(nn.Module):
    """A critic as the game uses it, from tensors."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.critic(Latents(states, mask)).scores
        return scores


def _planned(plan: AdversaryPlan, latent_dim: int, dtype: torch.dtype, length: int) -> tuple[CriticFlops, CriticMemory]:
    assert plan.discriminator is not None
    wide = torch.promote_types(dtype, torch.float32)
    with torch.random.fork_rng(devices=[]):
        module = _Scoring(Critic(plan.discriminator, plan.latents, latent_dim, wide))
    flops = _counted(module, latent_dim, length)
    weights = list(module.parameters())
    states, mask = _row(latent_dim, length, wide)
    half = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()
    with half:
        kept, _ = saved_bytes(lambda: module(states, mask), [*weights, *module.buffers()])
    bytes_of = {weight: weight.numel() * weight.element_size() for weight in weights}
    trained = sum(size for weight, size in bytes_of.items() if weight.requires_grad)
    return flops, CriticMemory(sum(bytes_of.values()), trained, kept / length)


def _counted(critic: Discriminator | nn.Module, latent_dim: int, length: int) -> CriticFlops:
    with torch.random.fork_rng(devices=[]):
        module = critic.build(latent_dim) if isinstance(critic, Discriminator) else critic
    weights: list[Tensor] = [weight for weight in module.parameters() if weight.requires_grad]
    states, mask = _row(latent_dim, length, next(iter(module.parameters()), torch.zeros(())).dtype)
    forward = count_flops(lambda: module(states, mask))
    with written_out():
        scores = module(states, mask).sum()

    def backward(inputs: list[Tensor]) -> int:
        if not inputs or not scores.requires_grad:
            return 0
        return count_flops(lambda: torch.autograd.grad(scores, inputs, retain_graph=True, allow_unused=True))

    return CriticFlops(forward / length, backward(weights) / length, backward([states]) / length)


def _row(latent_dim: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    states = torch.zeros(1, length, latent_dim, dtype=dtype, requires_grad=True)
    return states, torch.ones(1, length, dtype=torch.bool)
