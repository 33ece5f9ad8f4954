"""The contracts a plugin fulfils. A component is a frozen dataclass: its fields are its YAML options and its documentation.

Shape suffixes: B pairs, N rows, S positions, H latent width, F critic features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt, Le, Lt

from ganpo_core.types import (
    BatchStatistic,
    GeneratorForm,
    Latents,
    PairLogps,
    PairLoss,
    ResponseLoss,
    Scores,
    Source,
    TokenLogps,
    TokenMap,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
PositiveInt = Annotated[int, Gt(0)]
NonNegativeInt = Annotated[int, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
"""In [0, 1)."""

Need = Literal["token_ids", "preference", "prompt"]
"""What an objective may name in `needs`."""

Prompt = str | Sequence[Mapping[str, object]]
"""Text, or chat messages."""
Scorer = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""Scores one response to each prompt; higher is better."""

OPTIONS: dict[str, Any] = {
    "extra": "forbid",
    "strict": True,
    "allow_inf_nan": False,
    "use_attribute_docstrings": True,
    "arbitrary_types_allowed": True,
}
"""How options are validated (pydantic reads it from the class); `Any` is pydantic's own type for it."""


class Create(Protocol):
    """Makes a component by its name: a registry's, as a component that holds others is given it."""

    def __call__(
        self, name: str, options: Mapping[str, object], path: str, beside: Collection[str] = ()
    ) -> Component:
        """A validated component; `path` is where its options stand, `beside` the keys there that are not its own."""


@dataclass(frozen=True)
class Component:
    """What every registered part is: a frozen dataclass whose fields are its options."""

    __pydantic_config__: ClassVar[dict[str, Any]] = OPTIONS

    known_as: ClassVar[Mapping[str, str]] = {}
    """Other names of it, and who calls it so: whoever asks for one is told the name here.

    Options that make it the same, where the defaults do not, follow a colon: `{"bco_pair": "TRL: delta: zero"}`.
    """
    example: ClassVar[Mapping[str, object]] = {}
    """Options to check it with, where some have no default."""
    matters_with: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """For an option that changes nothing beside the defaults: the other options with which it does."""

    def bind(self, create: Create, path: str) -> None:
        """Make the components inside this one, whose own path is `path`."""


@dataclass(frozen=True)
class Objective(Component):
    """An offline preference loss on the log-probabilities of chosen and rejected responses."""

    stops_gradient: ClassVar[bool] = False
    """True where the loss holds weights that depend on the policy and are constants to the gradient."""
    needs_reference: ClassVar[bool] = True
    """False for losses that ignore the reference: its forward pass is then skipped unless an adversary needs it."""
    token_statistics: ClassVar[frozenset[str]] = frozenset()
    """Extra per-token quantities that the forward pass must return in `TokenLogps.statistics`."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What else of the data it reads: `TokenLogps.token_ids`, or `PairLogps.preference` (a column of the data)."""
    batch_statistics: ClassVar[Mapping[str, BatchStatistic]] = {}
    """What it must know of the other pairs of a step, by name; it arrives in `batch` of the policy's log-probabilities."""

    def batch_values(self, policy: PairLogps, reference: PairLogps | None) -> Mapping[str, Tensor]:
        """The values behind each of `batch_statistics`, one-dimensional, any number of them; core reduces them.

        It is given log-probabilities and masks, without token statistics or ids.
        """
        return {}

    def batch_values_unpaired(
        self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor
    ) -> Mapping[str, Tensor]:
        """The same for unpaired responses."""
        return {}

    @property
    def takes_pairs(self) -> bool:
        """True where it defines `loss`."""
        return type(self).loss is not Objective.loss

    @property
    def takes_unpaired(self) -> bool:
        """True where it defines `loss_unpaired`."""
        return type(self).loss_unpaired is not Objective.loss_unpaired

    def decay_of(self, name: str) -> float:
        """How much of the `running_mean` statistic `name` remains after one step."""
        return 0.9

    def loss(self, policy: PairLogps, reference: PairLogps | None) -> PairLoss:
        """The loss of each pair, [B]; the trainer reduces. `reference` is None where `needs_reference` is False."""
        raise NotImplementedError

    def loss_unpaired(self, policy: TokenLogps, reference: TokenLogps | None, desirable: Tensor) -> ResponseLoss:
        """The loss of each unpaired response, [B]; `desirable` is [B] bool. Only where the objective can use it."""
        raise NotImplementedError(f"{type(self).__name__} cannot use unpaired data")


@dataclass(frozen=True)
class LatentExtractor(Component):
    """Which hidden states of the policy and the reference are compared."""

    shared_by_sides: ClassVar[bool] = False
    """True where chosen and rejected have the same latents, as with those of the images in their prompt: a cross term
    between the two sides is then off."""

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        """Where to read: only these are captured, and kept, during a forward pass."""
        raise NotImplementedError

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        """The latents of N rows from the captured states [N, S, H]. The same call serves policy and reference.

        Latents of one position, [N, 1, H], are pooled: micro-batches weigh by their rows instead of by their positions.
        """
        raise NotImplementedError

    def selected(self, tokens: TokenMap) -> Tensor:
        """[N, S] bool, the positions that `extract` reads; averages over positions weigh micro-batches by them."""
        return tokens.valid

    @property
    def is_learned(self) -> bool:
        """True where `build` gives a module, which only a game with critics trains."""
        return False

    @property
    def is_standardized(self) -> bool:
        """True where core is to subtract the reference's mean from the latents and divide by its deviation, each of
        every dimension, both measured on the reference before the first step."""
        return False

    def build(self, latent_dim: int) -> nn.Module | None:
        """A learned transform [N, S, H] -> [N, S, H'] trained with the discriminators, or None."""
        return None


@dataclass(frozen=True)
class Discriminator(Component):
    """A critic of latents."""

    frozen: bool = field(default=False, kw_only=True)
    """Never train it: the control that shows what adversarial training adds."""

    @property
    def lipschitz(self) -> bool:
        """True where the critic is 1-Lipschitz in its input by construction."""
        return False

    def build(self, latent_dim: int) -> nn.Module:
        """A module `forward(states [N, S, H], mask [N, S]) -> scores [N]`.

        Scores must not depend on masked positions. A module that also offers `features(states, mask) -> [N, S, F]`
        serves `feature_matching`; one that then offers `score(features, mask) -> [N]` pays for a single pass.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Divergence(Component):
    """What separates the policy's latents from the reference's: a game with a critic, or a direct distance."""

    needs_critic: ClassVar[bool] = True
    """False for direct distances, which define `distance` and need no discriminator."""
    baseline: ClassVar[Literal["none", "group_mean", "pairwise"]] = "none"
    """What a score is compared with: nothing, the mean of another group (`Scores.mean`), or the other row of its pair."""
    cross_weight: ClassVar[float] = 0.0
    """Default weight of the cross-anchor term; above 0 only where that term means something."""
    allows_cross: ClassVar[bool] = True
    """False where a cross term cancels the policy out of the critic's loss: a `cross_weight` above 0 is refused."""
    forms: ClassVar[tuple[GeneratorForm, ...]] = ("minimax", "non_saturating")
    """The forms that `policy_loss` knows; the paired and anchored forms need nothing from the divergence."""
    additive: ClassVar[bool] = True
    """False where, even with given baselines, the value is no mean over rows or positions but compares those of a
    micro-batch with each other, so that gradient accumulation changes it."""
    sees_shift: ClassVar[bool] = True
    """False where moving every latent by one vector changes nothing."""

    @property
    def estimate_range(self) -> tuple[float, float]:
        """What `estimate` lies between for the best critic; (0, infinity) for direct distances."""
        return (0.0, math.inf)

    @property
    def queue_size(self) -> int:
        """How many rows of past references `distance` is to find in `reference.past`."""
        return 0

    def remember(self, reference: Latents) -> Tensor:
        """[M, F], the rows of a micro-batch's reference that enter the queue; only where `queue_size` is above 0."""
        raise NotImplementedError

    def closed_form(self, shift: float) -> float | None:
        """Its value between N(0, 1) and N(shift, 1) in one dimension, where a formula is known."""
        return None

    @property
    def needs_lipschitz(self) -> bool:
        """True where the options chosen rest on a discriminator that is 1-Lipschitz by construction."""
        return False

    def critic_loss(self, high: Scores, low: Scores) -> Tensor:
        """Scalar that the critic minimises so as to score `high` above `low`."""
        raise NotImplementedError

    def policy_loss(self, policy: Scores, anchor: Scores, form: GeneratorForm) -> Tensor:
        """Scalar that the policy minimises; gradients reach it through `policy` alone."""
        raise NotImplementedError

    def estimate(self, anchor: Scores, policy: Scores) -> Tensor:
        """Scalar estimate of the divergence from the critic's scores, for the log."""
        raise NotImplementedError

    def penalty(self, critic: nn.Module, anchor: Latents, policy: Latents) -> Tensor | None:
        """A term added to the critic's loss, such as a gradient penalty; `anchor` and `policy` are aligned, detached."""
        return None

    def project(self, critic: nn.Module) -> None:
        """Called after each critic step, under no_grad; weight clipping goes here."""

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        """Scalar, differentiable in `policy`; direct distances only."""
        raise NotImplementedError


@dataclass(frozen=True)
class Judge(Component):
    """What scores a response to a prompt, whoever wrote it."""

    scores_are_wins: ClassVar[bool] = False
    """True where a score is the win in [0, 1] over a baseline of the judge's own, not a quantity to compare."""

    def build(self) -> Scorer:
        """A function that scores responses, one number each, with whatever it needs loaded.

        A score depends on its own prompt and response alone, not on what else is scored in the same call. Raises
        GanpoError for files or packages that are missing, and for a prompt that it knows nothing about.
        """
        raise NotImplementedError

    def samples(self) -> Sequence[tuple[Prompt, str]]:
        """A few prompts and responses that it can score, to check it with."""
        return (("Say hello.", "Hello!"), ("Count to three.", "1, 2, 3"), ("Name a colour.", "Blue, like a clear sky."))
