"""The conformance checks: sound components pass, and each broken promise is named with its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import (
    Discriminator,
    Divergence,
    GeneratorForm,
    LatentExtractor,
    Latents,
    Layer,
    Objective,
    PairLogps,
    PairLoss,
    ResponseLoss,
    Scores,
    Source,
    TokenLogps,
    TokenMap,
)
from ganpo_core.testing import check_discriminator, check_divergence, check_extractor, check_objective


@dataclass(frozen=True)
class Sound(Objective):
    """A logistic loss on the difference of log-probabilities, for pairs and for single responses."""

    needs_reference = False

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        chosen, rejected = policy.chosen.total, policy.rejected.total
        return PairLoss(self.surrogate(chosen - rejected), chosen.detach(), rejected.detach())

    def surrogate(self, margin: Tensor) -> Tensor:
        return F.softplus(-margin)

    def loss_unpaired(self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor) -> ResponseLoss:
        total = policy.total
        return ResponseLoss(F.softplus(torch.where(desirable, -total, total)), total.detach())


@dataclass(frozen=True)
class Reduced(Sound):
    """Takes the mean, which is the trainer's to take."""

    def surrogate(self, margin: Tensor) -> Tensor:
        return super().surrogate(margin).mean()


@dataclass(frozen=True)
class WrongWay(Sound):
    """Prefers what was rejected."""

    def surrogate(self, margin: Tensor) -> Tensor:
        return F.softplus(margin)


@dataclass(frozen=True)
class Overflowing(Sound):
    """Writes softplus as it is printed."""

    def surrogate(self, margin: Tensor) -> Tensor:
        return (1 + (-margin).exp()).log()


@dataclass(frozen=True)
class WholeBatch(Sound):
    """Centres margins over the micro-batch."""

    def surrogate(self, margin: Tensor) -> Tensor:
        return F.softplus(-(margin - 0.1 * margin.mean()))


@dataclass(frozen=True)
class WholeBatchAndSaysSo(WholeBatch):
    """Centres margins over the micro-batch, which it declares."""

    batch_statistics = MappingProxyType({"margins": "micro_batch"})


@dataclass(frozen=True)
class Ignores(Sound):
    """Takes an option that it never reads."""

    temperature: float = 2.0


@dataclass(frozen=True)
class ReadsPadding(Sound):
    """Forgets the mask."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        chosen, rejected = policy.chosen.logps.sum(-1), policy.rejected.logps.sum(-1)
        return PairLoss(F.softplus(rejected - chosen), chosen.detach(), rejected.detach())


@dataclass(frozen=True)
class HalfTheGradient(Sound):
    """Cuts the graph on one side."""

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        chosen, rejected = policy.chosen.total, policy.rejected.total.detach()
        return PairLoss(F.softplus(rejected - chosen), chosen.detach(), rejected)


@dataclass(frozen=True)
class Undocumented(Sound):
    pass


def test_sound_objective_passes() -> None:
    check_objective(Sound())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Reduced(), r"Reduced\.loss: expected per_pair of shape \[5\]; found \[\]"),
        (WrongWay(), r"WrongWay\.loss: expected pairs ranked right by 20 nats to cost less than pairs ranked wrong"),
        (Overflowing(), r"Overflowing\.loss: expected finite per_pair at log-ratios of 1e4 nats"),
        (WholeBatch(), r"WholeBatch\.loss: expected the loss of a pair not to depend on its micro-batch"),
        (ReadsPadding(), r"ReadsPadding\.loss: expected per_pair to be unchanged by garbage in the padding"),
        (HalfTheGradient(), r"HalfTheGradient\.loss: expected gradients equal to finite differences"),
        (Undocumented(), r"Undocumented: expected a docstring"),
        (Ignores(), r"Ignores\.temperature: expected another value to change a score, a loss or a gradient; none of 4\.0"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_broken_objective_is_named(objective: Objective, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_objective(objective)


def test_a_loss_of_the_whole_batch_passes_when_it_says_so() -> None:
    check_objective(WholeBatchAndSaysSo())


def test_what_is_no_component_is_named() -> None:
    with pytest.raises(AssertionError, match=r"DotDiscriminator: expected an instance of ganpo_core\.Objective"):
        check_objective(DotDiscriminator())  # type: ignore[arg-type]


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


@dataclass(frozen=True)
class Last(LatentExtractor):
    """The last layer."""

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return (Layer(-1),)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[Layer(-1)], tokens.valid)


@dataclass(frozen=True)
class Twice(Last):
    """Asks for one layer twice."""

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return (Layer(-1), Layer(-1))


@dataclass(frozen=True)
class PoolsPadding(Last):
    """The mean of all positions."""

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[Layer(-1)].mean(1, keepdim=True), tokens.valid.any(1, keepdim=True))


@dataclass(frozen=True)
class ReadsResponses(Last):
    """Reads responses, and does not say so in `selected`."""

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[Layer(-1)], tokens.response)


@dataclass(frozen=True)
class FloatMask(Last):
    """A mask of numbers."""

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        return Latents(captured[Layer(-1)], tokens.valid.float())


@dataclass(frozen=True)
class Centred(Last):
    """Centres latents over rows."""

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        states = captured[Layer(-1)]
        return Latents(states - states[:1], tokens.valid)


def test_sound_extractor_passes() -> None:
    check_extractor(Last())


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (Twice(), r"Twice\.sources: expected every source once"),
        (PoolsPadding(), r"PoolsPadding\.extract: expected valid latents to be unchanged by garbage"),
        (ReadsResponses(), r"ReadsResponses\.extract: expected a valid latent in exactly those rows"),
        (FloatMask(), r"FloatMask\.extract: expected a bool mask \[N, S\]; found torch\.float32"),
        (Centred(), r"Centred\.extract: expected rows given in another order to have the same latents"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_broken_extractor_is_named(extractor: LatentExtractor, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_extractor(extractor)


def test_a_component_that_is_not_frozen_is_named() -> None:
    @dataclass(frozen=True)
    class Frozen(Sound):
        """Fine."""

    class Undecorated(Frozen):
        """Inherits the decorator's work and not its promise."""

    with pytest.raises(AssertionError, match=r"Undecorated: expected a class decorated with @dataclass\(frozen=True\)"):
        check_objective(Undecorated())
