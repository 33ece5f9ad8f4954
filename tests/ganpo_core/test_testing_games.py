"""The conformance checks of divergences and discriminators: sound ones pass, each broken promise is named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import (
    Discriminator,
    Divergence,
    GeneratorForm,
    Latents,
    Scores,
)
from ganpo_core.testing import check_discriminator, check_divergence


@dataclass(frozen=True)
class Difference(Divergence):
    """The difference of mean scores."""

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return low.average(low.values) - high.average(high.values)

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        return -policy.average(policy.values)

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return -self.critic_loss(anchor, policy)


@dataclass(frozen=True)
class CountsEmptyRows(Difference):
    """Averages over all rows."""

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return low.values.mean() - high.values.mean()


@dataclass(frozen=True)
class LosingCritic(Difference):
    """Lowers the scores that it should raise."""

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        return -super().critic_loss(high, low)


@dataclass(frozen=True)
class Repelled(Difference):
    """Pushes the policy away from the anchor."""

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        return policy.average(policy.values)


@dataclass(frozen=True)
class Boastful(Difference):
    """Estimates a divergence where there is none."""

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        return super().estimate(anchor, policy) + 1


@dataclass(frozen=True)
class SquaredMean(Difference):
    """Is not a mean over rows."""

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        return F.softplus(-2 * policy.average(policy.values))


@dataclass(frozen=True)
class SquaredMeanAndSaysSo(SquaredMean):
    """Is not a mean over rows, which it declares."""

    additive = False


@dataclass(frozen=True)
class Absolute(Divergence):
    """The mean absolute difference of paired latents."""

    needs_critic = False

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        gaps = (policy.states.double() - reference.states.double()).masked_fill(~policy.mask[..., None], 0.0)
        return gaps.abs().mean(-1).sum() / policy.mask.sum().clamp(min=1)


@dataclass(frozen=True)
class AbsoluteEverywhere(Absolute):
    """Compares padding too."""

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        return (policy.states - reference.states).abs().mean() * policy.mask.any()


@dataclass(frozen=True)
class Restless(Absolute):
    """Pulls on latents that agree."""

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        gaps = (policy.states - reference.states).masked_fill(~policy.mask[..., None], 0.0)
        return (gaps.square() + 1e-3 * gaps).mean(-1).sum() / policy.mask.sum().clamp(min=1)


def test_sound_divergences_pass() -> None:
    check_divergence(Difference())
    check_divergence(Absolute())
    check_divergence(SquaredMeanAndSaysSo())


@pytest.mark.parametrize(
    ("divergence", "message"),
    [
        (
            CountsEmptyRows(),
            r"CountsEmptyRows\.critic_loss: expected no change from garbage in rows that are not valid",
        ),
        (LosingCritic(), r"LosingCritic\.critic_loss: expected high scores above low ones to cost less"),
        (Repelled(), r"Repelled\.policy_loss in form minimax: expected descent to raise policy scores"),
        (Boastful(), r"Boastful\.estimate: expected nothing above 0 for two equal groups"),
        (SquaredMean(), r"SquaredMean\.policy_loss in form minimax: expected micro-batches .* to add up"),
        (AbsoluteEverywhere(), r"AbsoluteEverywhere\.distance: expected no change from garbage in masked positions"),
        (Restless(), r"Restless\.distance: expected no gradient where policy and reference agree"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_broken_divergence_is_named(divergence: Divergence, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_divergence(divergence)


class Dot(nn.Module):
    """Scores the mean latent by a direction."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(latent_dim))

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        total = states.masked_fill(~mask[..., None], 0.0).sum(1)
        return (total / mask.sum(1, keepdim=True).clamp(min=1))[:, None]

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        return features[:, 0] @ self.direction

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.score(self.features(states, mask), mask)


class DotOfAll(Dot):
    """Pools padding too."""

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        return states.mean(1, keepdim=True)


class DotByCount(Dot):
    """Divides by 0 in an empty row."""

    def features(self, states: Tensor, mask: Tensor) -> Tensor:
        return (states.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True))[:, None]


class DotOfBatch(Dot):
    """Centres features over the rows of a batch."""

    def score(self, features: Tensor, mask: Tensor) -> Tensor:
        return super().score(features - 0.5 * features.mean(0), mask)


class DotWithAnotherScore(Dot):
    """Does not score by `score`."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return super().forward(states, mask) + 1


class DotThatCounts(Dot):
    """Counts its calls."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return super().forward(states, mask)


@dataclass(frozen=True)
class DotDiscriminator(Discriminator):
    """Makes one of the critics above."""

    critic: type[Dot] = Dot
    claims_lipschitz: bool = False

    @property
    def lipschitz(self) -> bool:
        return self.claims_lipschitz

    def build(self, latent_dim: int) -> nn.Module:
        return self.critic(latent_dim)


def test_sound_discriminator_passes() -> None:
    check_discriminator(DotDiscriminator())


@pytest.mark.parametrize(
    ("discriminator", "message"),
    [
        (DotDiscriminator(DotOfAll), r"DotDiscriminator\.build\(…\)\.forward: expected no change from garbage"),
        (DotDiscriminator(DotByCount), r"forward: expected finite scores, one a row"),
        (DotDiscriminator(DotOfBatch), r"forward: expected a row to have the same score alone as among others"),
        (DotDiscriminator(DotWithAnotherScore), r"score: expected score\(features.*to equal forward"),
        (DotDiscriminator(DotThatCounts), r"forward: expected 'calls' unchanged by scoring in evaluation mode"),
        (DotDiscriminator(claims_lipschitz=True), r"expected a slope of at most 1.*found 2\.828"),
    ],
    ids=lambda value: value.critic.__name__ if isinstance(value, DotDiscriminator) else "",
)
def test_broken_discriminator_is_named(discriminator: Discriminator, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_discriminator(discriminator)
