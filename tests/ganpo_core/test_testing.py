"""The conformance checks of objectives and extractors: sound ones pass, each broken promise is named with its method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganpo_core import (
    LatentExtractor,
    Latents,
    Layer,
    Objective,
    PairLogps,
    PairLoss,
    ResponseLoss,
    Source,
    TokenLogps,
    TokenMap,
)
from ganpo_core.testing import check_extractor, check_objective


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
    with pytest.raises(AssertionError, match=r"Last: expected an instance of ganpo_core\.Objective"):
        check_objective(Last())  # type: ignore[arg-type]


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
