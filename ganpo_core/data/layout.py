"""Where each token of a batch lies in what the model is given.

Shape suffixes: N rows of a batch (chosen, then rejected), S positions of a row, R rows and L positions as the model is
given them, M response tokens, T response tokens of a row, P prompt tokens that are there twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

Packing = Literal["shared", "packed", "padded"]
"""`shared`: every pair is [prompt | chosen | rejected] once, all pairs in one row. `packed`: the sequences back to back in
one row, the prompt once for each response. `padded`: one row for each sequence."""


class Segment(NamedTuple):
    """A run of tokens in which each attends to those before it, and a branch that continues an early part of it."""

    length: int
    """Tokens of the run: prompt and chosen response, or one whole sequence."""
    shared: int = 0
    """How many of the first tokens the branch continues: the prompt."""
    branch: int = 0
    """Tokens of the branch, which follow the run: the rejected response, or none."""


class Predicted(NamedTuple):
    """Some tokens of a batch, by the state that predicts each."""

    scored: Tensor
    """[M] into the R * L tokens."""
    targets: Tensor
    """[M], the tokens."""
    places: Tensor
    """[M] into `mask`, flattened."""
    mask: Tensor
    """[B, P] bool, left-aligned."""

    def placed(self, values: Tensor) -> Tensor:
        """[B, P] from a value of each token [M], differentiable; 0 beside them."""
        return values.new_zeros(self.mask.numel()).index_copy(0, self.places, values).view(self.mask.shape)


@dataclass(frozen=True)
class Layout:
    """The tokens of a batch as the model is given them, and the way back to the batch's rows."""

    shape: tuple[int, int]
    """N, S."""
    input_ids: Tensor
    """[R, L]."""
    position_ids: Tensor
    """[R, L], counted from the start of each sequence."""
    valid: Tensor | None
    """[R, L] bool; None where there is no padding at all."""
    segments: tuple[Segment, ...]
    """One after the other in the single row; empty for padded rows."""
    moves: tuple[Tensor, Tensor] | None
    """Of each token of the batch, its place in N * S and in R * L; None where the rows are the batch's own."""
    scored: Tensor
    """[M] into the R * L tokens: whose state predicts each response token; rows in order."""
    targets: Tensor
    """[M], the response tokens."""
    places: Tensor
    """[M] into N * T: where each response token stands among the left-aligned responses."""
    mask: Tensor
    """[N, T] bool, True on response tokens."""
    prompts: Predicted
    """Each pair's prompt after its first token, once."""
    twins: tuple[Tensor, Tensor]
    """[P] each into the R * L tokens: the two copies of prompts that both sides of a pair carry."""
    derived: dict[object, object] = field(default_factory=dict, compare=False, repr=False)
    """What attention makes of the segments: once for a batch, whichever model and layer ask."""

    def rows(self, states: Tensor) -> Tensor:
        """[N, S, ...] from the model's [R, L, ...], differentiable; 0 where the batch has no token."""
        if self.moves is None:
            return states
        places, tokens = self.moves
        found = states.new_zeros((math.prod(self.shape), *states.shape[2:]))
        found = found.index_copy(0, places, states.flatten(0, 1).index_select(0, tokens))
        return found.view(*self.shape, *states.shape[2:])

    def given(self, values: Tensor) -> Tensor:
        """[R, L] from a value of each of the batch's tokens [N, S]; 0 on padding."""
        if self.moves is None:
            return values
        places, tokens = self.moves
        found = values.new_zeros(self.input_ids.numel())
        return found.index_copy(0, tokens, values.flatten().index_select(0, places)).view(self.input_ids.shape)

    def responses(self, values: Tensor) -> Tensor:
        """[N, T] from a value of each response token [M], differentiable; 0 beside them."""
        return values.new_zeros(self.mask.numel()).index_copy(0, self.places, values).view(self.mask.shape)

    def distinct_square(self, gradient: Tensor) -> Tensor:
        """The squared norm of a gradient at states [R, L, H], scalar float64; copies of a prompt count as one state.

        |sum of both|^2 is |chosen's|^2 + |rejected's|^2 + 2 <chosen's, rejected's>: the same number in every layout.
        """
        wide = gradient.double()
        total = wide.square().sum()
        first, second = self.twins
        if not len(first) or gradient.shape[:2] != self.input_ids.shape:
            return total
        flat = wide.flatten(0, 1)
        return total + 2 * (flat[first] * flat[second]).sum()


class _Side(NamedTuple):
    """One sequence among the tokens that the model is given."""

    row: int
    """Of the batch."""
    prompt: int
    """Tokens."""
    response: int
    """Tokens."""
    start: int
    """Where the prompt begins."""
    answer: int
    """Where the response begins."""


def lay_out(
    packing: Packing, lengths: Sequence[tuple[int, int, int]], input_ids: Tensor, position_ids: Tensor
) -> Layout:
    """The layout of right-padded rows [N, S]; `lengths` are each pair's prompt, chosen and rejected tokens.

    A side without a response is not given to the model at all.
    """
    import torch

    device, (num_rows, width) = input_ids.device, input_ids.shape
    sides = list(_sides(packing, lengths, width))
    source = _ranges((side.row * width, side.prompt + side.response) for side in sides)
    moved = _ranges(span for side in sides for span in ((side.start, side.prompt), (side.answer, side.response)))
    if packing == "padded":
        taken = torch.tensor([side.row for side in sides])[:, None] * width + torch.arange(width)
        valid = torch.zeros(taken.numel(), dtype=torch.bool).index_fill(0, moved, True).view(taken.shape).to(device)
    else:
        taken = torch.empty(1, int(moved.max()) + 1, dtype=torch.long)
        taken[0, moved] = source  # a shared prompt is written twice, with the same tokens
        valid = None
    targets = _ranges((side.row * width + side.prompt, side.response) for side in sides)
    # The first response token is predicted by the last of the prompt, each other by the one before it.
    scored = _ranges(
        span for side in sides for span in ((side.start + side.prompt - 1, 1), (side.answer, side.response - 1))
    )
    counts = torch.tensor([chosen for _, chosen, _ in lengths] + [rejected for _, _, rejected in lengths])
    longest = int(counts.max())
    by_row = {side.row: side for side in sides}
    partners = [(by_row.get(row), by_row.get(row + len(lengths))) for row in range(len(lengths))]
    copies = [(one, two) for one, two in partners if one and two and packing != "shared"]
    asked = [one or two for one, two in partners]
    spans = [(side.start, side.row * width, max(side.prompt - 1, 0)) if side else (0, 0, 0) for side in asked]
    longest_prompt = max(count for _, _, count in spans)
    prompts = Predicted(
        _ranges((start, count) for start, _, count in spans).to(device),
        input_ids.flatten()[_ranges((row + 1, count) for _, row, count in spans).to(device)],
        _ranges((pair * longest_prompt, count) for pair, (_, _, count) in enumerate(spans)).to(device),
        (torch.arange(longest_prompt) < torch.tensor([[count] for _, _, count in spans])).to(device),
    )
    as_given = packing == "padded" and len(sides) == num_rows
    taken = taken.to(device)
    return Layout(
        shape=(num_rows, width),
        input_ids=input_ids.flatten()[taken],
        position_ids=position_ids.flatten()[taken],
        valid=valid,
        segments=() if packing == "padded" else tuple(_segments(packing, lengths)),
        moves=None if as_given else (source.to(device), moved.to(device)),
        scored=scored.to(device),
        targets=input_ids.flatten()[targets.to(device)],
        places=_ranges((side.row * longest, side.response) for side in sides).to(device),
        mask=(torch.arange(longest) < counts[:, None]).to(device),
        prompts=prompts,
        twins=(
            _ranges((one.start, one.prompt) for one, _ in copies).to(device),
            _ranges((two.start, two.prompt) for _, two in copies).to(device),
        ),
    )


def image_order(packing: Packing, lengths: Sequence[tuple[int, int, int]]) -> list[int]:
    """The pairs, by index, whose images the model is given, in the order in which their tokens lie."""
    if packing == "shared":
        return list(range(len(lengths)))
    return [pair for side in (1, 2) for pair, counts in enumerate(lengths) if counts[side]]


def _sides(packing: Packing, lengths: Sequence[tuple[int, int, int]], width: int) -> Iterator[_Side]:
    """The sequences that hold a response, by the batch's rows."""
    pairs, start = len(lengths), 0
    starts = [0, *accumulate(prompt + chosen + rejected for prompt, chosen, rejected in lengths)]
    for row in range(2 * pairs):
        prompt, chosen, rejected = lengths[row % pairs]
        response = chosen if row < pairs else rejected
        if not response:
            continue
        if packing == "shared":
            start = starts[row % pairs]
            yield _Side(row, prompt, response, start, start + prompt + (0 if row < pairs else chosen))
        else:
            yield _Side(row, prompt, response, start, start + prompt)
            start += width if packing == "padded" else prompt + response


def _segments(packing: Packing, lengths: Sequence[tuple[int, int, int]]) -> Iterator[Segment]:
    if packing == "shared":
        for prompt, chosen, rejected in lengths:
            # With one response alone the pair is one sequence, whichever side it is of.
            both = bool(chosen and rejected)
            yield Segment(prompt + chosen, prompt, rejected) if both else Segment(prompt + chosen + rejected)
    else:
        for responses in zip(*(pair[1:] for pair in lengths), strict=True):
            for (prompt, _, _), response in zip(lengths, responses, strict=True):
                if response:
                    yield Segment(prompt + response)


def _ranges(spans: Iterable[tuple[int, int]]) -> Tensor:
    """`start, start + 1, ...` for `count` numbers, of every (start, count), joined."""
    import torch

    return torch.cat([torch.empty(0, dtype=torch.long), *(torch.arange(start, start + n) for start, n in spans)])
