"""Losses of single responses: they take unpaired data too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ganpo_core import BatchStatistic, Fraction, Need, Objective, PairLogps, PairLoss, PositiveFloat, TokenLogps
from ganpo_objectives.pointwise import Pointwise
from ganpo_objectives.stages import log_ratio


@dataclass(frozen=True)
class KTO(Pointwise):
    """Kahneman-Tversky optimization: gains and losses against what the policy would get anyway.

        desirable   w_D sigma(-beta (z - z0)),   undesirable   w_U sigma(-beta (z0 - z))
        z0 = max(0, mean of z over the step's responses after another pair's prompt), a constant

    Source: arXiv 2402.01306.
    TRL: KTOTrainer's `loss_type="kto"`.
    Departs: TRL's z0 is of one micro-batch, here of the whole step.
    When: responses carry a thumb up or down rather than a partner. Keep w_D n_D / (w_U n_U) between 1 and 4/3.
    """

    batch_statistics: ClassVar[Mapping[str, BatchStatistic]] = {"mismatched": "mismatched"}

    desirable_weight: PositiveFloat = 1.0
    """w_D."""
    undesirable_weight: PositiveFloat = 1.0
    """w_U."""

    def batch_values(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        assert reference is not None
        sides = (log_ratio(policy.chosen, reference.chosen), log_ratio(policy.rejected, reference.rejected))
        return {"mismatched": torch.cat(sides)}

    def batch_values_unpaired(
        self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor
    ) -> Mapping[str, Tensor]:
        return {"mismatched": log_ratio(policy, reference)}

    def baseline(self, batch: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return self.beta * batch.get("mismatched", like.new_zeros(())).clamp(min=0).to(like)

    def desirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return self.desirable_weight * torch.sigmoid(baseline - reward)

    def undesirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return self.undesirable_weight * torch.sigmoid(reward - baseline)


@dataclass(frozen=True)
class BCO(Pointwise):
    """Binary classifier optimization: the reward is the logit of a classifier of good and bad responses.

        desirable   softplus(-(beta z - delta)),   undesirable   softplus(beta z - delta)
        delta = running mean of the rewards: half that of the desirable, half that of the undesirable

    Source: arXiv 2404.04656.
    TRL: `loss_type="bco_pair"` is `delta: zero`.
    Departs: TRL keeps delta at 0; the paper's running mean is the default here.
    When: labels say good or bad, and the prompts of the two kinds are alike.
    """

    known_as: ClassVar = {"bco_pair": "TRL: delta: zero"}

    delta: Literal["running", "zero"] = "running"
    """Where the classifier's boundary lies."""
    delta_decay: Fraction = 0.9
    """Of the running mean, per optimizer step."""

    @property
    def batch_statistics(self) -> Mapping[str, BatchStatistic]:  # type: ignore[override]
        """The rewards of both kinds, where the boundary follows them."""
        return {"desirable": "running_mean", "undesirable": "running_mean"} if self.delta == "running" else {}

    def decay_of(self, name: str) -> float:
        return self.delta_decay

    def batch_values(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        assert reference is not None
        return {
            "desirable": self.beta * log_ratio(policy.chosen, reference.chosen),
            "undesirable": self.beta * log_ratio(policy.rejected, reference.rejected),
        }

    def batch_values_unpaired(
        self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor
    ) -> Mapping[str, Tensor]:
        reward = self.beta * log_ratio(policy, reference)
        return {"desirable": reward[desirable], "undesirable": reward[~desirable]}

    def baseline(self, batch: Mapping[str, Tensor], like: Tensor) -> Tensor:
        if not batch:
            return like.new_zeros(())
        return (0.5 * (batch["desirable"] + batch["undesirable"])).to(like)

    def desirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return F.softplus(baseline - reward)

    def undesirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return F.softplus(reward - baseline)


@dataclass(frozen=True)
class NCA(Pointwise):
    """Noise contrastive alignment: rewards have a zero of their own, so the chosen likelihood does not fall.

        desirable   softplus(-r) + softplus(r) / 2,   undesirable   softplus(r) / 2,   r = beta z

    Source: arXiv 2402.05369.
    TRL: `loss_type="nca_pair"`.
    When: the likelihood of the chosen response must not fall, as in reasoning.
    """

    known_as: ClassVar = {"nca_pair": "TRL"}

    def desirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return F.softplus(-reward) + 0.5 * F.softplus(reward)

    def undesirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return 0.5 * F.softplus(reward)


@dataclass(frozen=True)
class APOZero(Pointwise):
    """Anchored preference optimization, zero: chosen likelihoods rise, rejected ones fall.

        loss = sigma(-beta z_chosen) + sigma(beta z_rejected)

    Source: arXiv 2408.06266.
    TRL: `loss_type="apo_zero"`; KTOTrainer's `apo_zero_unpaired` for unpaired data.
    When: the chosen responses are better than what the model writes.
    """

    known_as: ClassVar = {"apo_zero_unpaired": "TRL"}

    def desirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return torch.sigmoid(-reward)

    def undesirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return torch.sigmoid(reward)


@dataclass(frozen=True)
class APODown(Objective):
    """Anchored preference optimization, down: both likelihoods fall, the rejected one further.

        loss = sigma(beta z_chosen) + sigma(-beta (z_chosen - z_rejected))

    Source: arXiv 2408.06266.
    TRL: `loss_type="apo_down"`.
    When: the model writes better than even the chosen responses.
    """

    beta: PositiveFloat = 0.1
    """Reward per nat of log-ratio."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        chosen = self.beta * log_ratio(policy.chosen, reference.chosen)
        rejected = self.beta * log_ratio(policy.rejected, reference.rejected)
        per_pair = torch.sigmoid(chosen) + torch.sigmoid(rejected - chosen)
        return PairLoss(per_pair, chosen.detach(), rejected.detach())


@dataclass(frozen=True)
class SPPO(Pointwise):
    """Self-play preference optimization: log-ratios are drawn to how often a response wins.

        loss = scale * ((z_chosen - (p - 1/2) / beta)^2 + (z_rejected + (p - 1/2) / beta)^2)

    Source: arXiv 2405.00675, where 1 / beta is eta; the reference is the iterate before.
    TRL: `loss_type="sppo_hard"` is `preference: hard`.
    Departs: the authors' code halves it (`scale: 0.5`); TRL and this default do not.
    When: rounds of self-play against a judge that gives probabilities (`preference: soft`).
    """

    known_as: ClassVar = {"sppo_hard": "TRL"}

    beta: PositiveFloat = 1e-3
    """1 / eta."""
    preference: Literal["hard", "soft"] = "hard"
    """p = 1 for every pair, or the column `preference` of the data."""
    scale: PositiveFloat = 1.0
    """Factor of the loss."""

    @property
    def needs(self) -> frozenset[Need]:  # type: ignore[override]
        """The column of probabilities, where they are soft."""
        return frozenset({"preference"}) if self.preference == "soft" else frozenset()

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        assert reference is not None
        chosen = self.beta * log_ratio(policy.chosen, reference.chosen)
        rejected = self.beta * log_ratio(policy.rejected, reference.rejected)
        target = soft_preference(policy, chosen) - 0.5 if self.preference == "soft" else chosen.new_tensor(0.5)
        per_pair = self.distance(chosen, target) + self.distance(rejected, -target)
        return PairLoss(per_pair, chosen.detach(), rejected.detach())

    def distance(self, reward: Tensor, target: Tensor) -> Tensor:
        """The squared distance of a log-ratio to its target, both given as rewards."""
        return self.scale * ((reward - target) / self.beta).square()

    def desirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return self.distance(reward, baseline + 0.5)

    def undesirable(self, reward: Tensor, baseline: Tensor) -> Tensor:
        return self.distance(reward, baseline - 0.5)


def soft_preference(policy: PairLogps, like: Tensor) -> Tensor:
    """[B], the probability that the chosen response is the better one."""
    if policy.preference is None:
        raise ValueError("a soft preference needs the column `preference`, the probability that `chosen` is better")
    return policy.preference.to(like)
