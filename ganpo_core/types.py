"""The values that travel from the forward pass to the losses and back.

Shape suffixes: B pairs, N rows, T response tokens, S positions of a row, H latent width, F critic features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

GeneratorForm = Literal["minimax", "non_saturating", "full", "paired_score", "anchor_score", "feature_matching"]
"""How the policy answers a critic; formulas in docs/mathematics.md."""

BatchStatistic = Literal["lengths", "mismatched", "micro_batch", "running_mean"]
"""What an objective may learn of the pairs beside its own, over all processes, without gradient.

`lengths`: the mean, over the step, of a value that depends on the masks alone. `mismatched`: the mean, over the step,
of a value of responses that follow another pair's prompt. `micro_batch`: every value of the micro-batch, this process's
first. `running_mean`: a running mean over the steps before, from 0. Only `micro_batch` depends on accumulation.
"""


@dataclass(frozen=True)
class TokenLogps:
    """Log-probabilities of response tokens, in nats, the end-of-sequence token included.

    Rows are left-aligned; entries where `mask` is False are ignored whatever they hold.
    """

    logps: Tensor
    """[B, T], at least float32."""
    mask: Tensor
    """[B, T] bool, True on response tokens."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """[B, T] each: the extra per-token quantities that an objective named in `token_statistics`."""
    token_ids: Tensor | None = None
    """[B, T], given to objectives that name `token_ids` in `needs`."""
    batch: Mapping[str, Tensor] = field(default_factory=dict)
    """The `batch_statistics` of the objective, for unpaired responses; empty outside of a run."""

    @property
    def whole(self) -> Tensor:
        """[B, T], `logps` in at least float32 and 0 outside of the response."""
        import torch

        wide = torch.promote_types(self.logps.dtype, torch.float32)
        return self.logps.to(wide).masked_fill(~self.mask, 0.0)

    @property
    def total(self) -> Tensor:
        """[B], the sum over response tokens: log pi(y | x)."""
        return self.whole.sum(-1)

    @property
    def length(self) -> Tensor:
        """[B], the number of response tokens, in the dtype of `total`."""
        import torch

        return self.mask.sum(-1).to(torch.promote_types(self.logps.dtype, torch.float32))

    @property
    def mean(self) -> Tensor:
        """[B], nats per response token."""
        return self.total / self.length.clamp(min=1)


@dataclass(frozen=True)
class PairLogps:
    """One model's log-probabilities of the chosen and the rejected responses of B pairs."""

    chosen: TokenLogps
    rejected: TokenLogps
    preference: Tensor | None = None
    """[B], the probability that the chosen response is the better one, where the data say; on the policy's."""
    prompt: TokenLogps | None = None
    """The prompt's own tokens after the first, [B, P], given to objectives that name `prompt` in `needs`; on the policy's."""
    opponents: tuple[PairLogps, ...] = ()
    """Past iterates of self-play on the same responses, oldest first; on the reference's. Empty in the first round."""
    batch: Mapping[str, Tensor] = field(default_factory=dict)
    """The `batch_statistics` of the objective, by name; on the policy's, and empty outside of a run."""


@dataclass(frozen=True)
class PairLoss:
    """An objective's value for each pair; the trainer takes the mean over the pairs of an optimizer step."""

    per_pair: Tensor
    """[B], differentiable."""
    chosen_reward: Tensor
    """[B], the implicit reward of the chosen response, for the log."""
    rejected_reward: Tensor
    """[B]."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """[B] each: what else to log of every pair, as `objective/NAME`. No gradient is taken of it."""


@dataclass(frozen=True)
class ResponseLoss:
    """An objective's value for each response of unpaired data."""

    per_response: Tensor
    """[B], differentiable."""
    reward: Tensor
    """[B], the implicit reward, for the log."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """[B] each: what else to log of every response, as `objective/NAME`."""


@dataclass(frozen=True)
class Layer:
    """The residual stream after decoder layer `index` of the language model.

    0 is the embeddings; the number of layers (or -1) is what the head reads, after the final norm; other negative
    indices count from the end; a fraction in (0, 1) is rounded to the nearest layer.
    """

    index: int | float
    final_norm: bool = False
    """Read an inner layer through the model's final norm, as the head would."""


@dataclass(frozen=True)
class Module:
    """The output of the submodule at a dotted path in the model; its first tensor if it returns several.

    States of images, where they are not one for each position of a row, are placed as ImageFeatures are.
    """

    path: str


@dataclass(frozen=True)
class ImageFeatures:
    """What becomes of a row's images before the language model, at the positions of their tokens; 0 elsewhere.

    `tower`: the last states of the vision tower, in its own order, averaged over as many as each token stands for;
    `projector`: what the language model is given in place of the tokens.
    """

    part: Literal["tower", "projector"]


Source = Layer | Module | ImageFeatures


@dataclass(frozen=True)
class TokenMap:
    """What each of the S positions of N captured rows is."""

    valid: Tensor
    """[N, S] bool, False on padding."""
    prompt: Tensor
    """[N, S] bool."""
    response: Tensor
    """[N, S] bool, the end-of-sequence token included."""
    image: Tensor | None = None
    """[N, S] bool, positions that hold an image; None for text."""
    shared: Tensor | None = None
    """[N, S] bool, positions up to which the two rows of a pair hold the same tokens: the prompt, and what both
    responses start with. None where nobody compared them."""

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenMap:
        """The same change to every mask."""
        image = None if self.image is None else change(self.image)
        shared = None if self.shared is None else change(self.shared)
        return TokenMap(change(self.valid), change(self.prompt), change(self.response), image, shared)


@dataclass(frozen=True)
class Latents:
    """Hidden states that a regularizer compares, with what counts among them."""

    states: Tensor
    """[N, S, H]."""
    mask: Tensor
    """[N, S] bool; a row without a single True is left out of every mean."""
    past: Tensor | None = None
    """[Q, F], on a reference: what a distance with a queue remembers of earlier steps, oldest first."""

    def rows(self, start: int, stop: int) -> Latents:
        """The latents of rows `start` to `stop`."""
        return replace(self, states=self.states[start:stop], mask=self.mask[start:stop])

    def detach(self) -> Latents:
        """The same values, cut from the graph."""
        return replace(self, states=self.states.detach())


@dataclass(frozen=True)
class Scores:
    """A critic's logits of one group of rows, with the baseline that stands for the group.

    `mean` is a running or a batch mean for relativistic divergences, else None.
    """

    values: Tensor
    """[N], a row without valid positions scores 0."""
    valid: Tensor
    """[N] bool, False for rows without a single valid position."""
    mean: Tensor | None = None
    """Scalar."""
    count: Tensor | None = None
    """Scalar, what a micro-batch's `average` divides by so that micro-batches of unlike numbers of rows add up to the
    mean of their step; None counts the valid rows at hand."""

    def average(self, per_row: Tensor) -> Tensor:
        """The mean of `per_row` [N] over valid rows; 0 where there are none."""
        count = self.valid.sum().clamp(min=1) if self.count is None else self.count
        return per_row.masked_fill(~self.valid, 0.0).sum() / count

    def baseline(self) -> Tensor:
        """`mean`, which a relativistic divergence declares that it needs."""
        if self.mean is None:
            raise ValueError("these scores carry no baseline; declare `baseline = 'group_mean'` on the divergence")
        return self.mean


@dataclass(frozen=True)
class StepReport:
    """One finished optimizer step, as observers see it on the main process."""

    step: int
    """1 after the first optimizer step."""
    max_steps: int
    metrics: Mapping[str, float]
    """Empty on steps between two logging intervals."""
