"""Pairs side by side in tensors.

Shape suffixes: N rows, the B chosen sides and then the B rejected ones; S positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from ganpo_core.data.dataset import TokenPair
from ganpo_core.data.flaws import RowError
from ganpo_core.data.images import PromptImages
from ganpo_core.data.join import ImageInputs
from ganpo_core.data.layout import Layout, Packing, image_order, lay_out
from ganpo_core.errors import DataError
from ganpo_core.types import TokenMap

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class PairBatch:
    """B pairs as 2B right-padded rows: row i is the chosen side of pair i, row B + i its rejected side."""

    input_ids: Tensor
    """[2B, S]."""
    position_ids: Tensor
    """[2B, S], 0 to S - 1 in every row."""
    tokens: TokenMap
    pair_ids: tuple[tuple[str, int], ...]
    """The source and the row of each pair."""
    lengths: tuple[tuple[int, int, int], ...]
    """Tokens of each pair's prompt, chosen and rejected response; 0 for the empty side of unpaired data."""
    packing: Packing = "padded"
    """How the model is given these rows."""
    desirable: Tensor | None = None
    """[B] bool, for unpaired data: where True the chosen side holds the response, else the rejected one. The other row
    of the pair is empty."""
    preference: Tensor | None = None
    """[B], the probability that the chosen response is the better one, where the data say."""
    reference: Tensor | None = None
    """[2B, T], the reference's log-probabilities of response tokens, left-aligned, where they are known already."""
    images: ImageInputs | None = None
    """What the model is given of each prompt's images; None where it reads text alone."""

    @cached_property
    def image_arguments(self) -> dict[str, Tensor]:
        """What the model is given beside the tokens of `layout`: images in the order of their tokens, and token types."""
        if self.images is None:
            return {}
        found = self.images.joined(image_order(self.packing, self.lengths))
        kinds = {"image": self.tokens.image, "response": self.tokens.response}
        for name, kind in self.images.token_types.items():
            mask = kinds[kind]
            assert mask is not None
            found[name] = self.layout.given(mask.long())
        return found

    @cached_property
    def layout(self) -> Layout:
        """What the model is given, and the way back to these rows."""
        return lay_out(self.packing, self.lengths, self.input_ids, self.position_ids)

    @property
    def num_pairs(self) -> int:
        """B."""
        return len(self.pair_ids)

    def to(self, device: torch.device | str) -> PairBatch:
        """The same batch on another device."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            tokens=self.tokens.each(lambda mask: mask.to(device)),
            desirable=None if self.desirable is None else self.desirable.to(device),
            preference=None if self.preference is None else self.preference.to(device),
            images=None if self.images is None else self.images.to(device),
        )


def collate(pairs: Sequence[TokenPair], pad_token_id: int, packing: Packing = "padded") -> PairBatch:
    """One batch of at least one pair (or of single responses), as wide as its longest side."""
    import torch

    sides = [side for responses in ("chosen", "rejected") for side in _sides(pairs, responses)]
    num_prompt_N = torch.tensor([[len(prompt)] for prompt, _ in sides])
    num_valid_N = torch.tensor([[len(prompt) + len(response)] for prompt, response in sides])
    width = int(num_valid_N.max())
    input_ids_NS = torch.full((len(sides), width), pad_token_id, dtype=torch.long)
    for row, (prompt, response) in enumerate(sides):
        input_ids_NS[row, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
    position_S = torch.arange(width)
    valid_NS = position_S < num_valid_N
    prompt_NS = position_S < num_prompt_N
    found = [pair.images for pair in pairs if pair.images is not None]
    return PairBatch(
        input_ids=input_ids_NS,
        position_ids=position_S.expand_as(input_ids_NS),
        tokens=TokenMap(
            valid=valid_NS,
            prompt=prompt_NS,
            response=valid_NS & ~prompt_NS,
            image=input_ids_NS == found[0].image_token_id if found else None,
            shared=_shared(input_ids_NS, valid_NS),
        ),
        pair_ids=tuple((pair.source, pair.row) for pair in pairs),
        lengths=tuple((len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in pairs),
        packing=packing,
        desirable=torch.tensor([bool(pair.chosen) for pair in pairs]) if pairs[0].is_single else None,
        preference=_preferences(pairs),
        images=_load_images(found, pairs),
    )


def _sides(pairs: Sequence[TokenPair], responses: str) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """(prompt, response) of one side of each pair; both empty where the pair is a single response of the other side."""
    for pair in pairs:
        response = getattr(pair, responses)
        yield (pair.prompt if response else ()), response


def _shared(input_ids_NS: Tensor, valid_NS: Tensor) -> Tensor:
    """Positions up to which both sides of a pair hold the same tokens."""
    (chosen_BS, rejected_BS), (real_BS, also_BS) = (rows.chunk(2) for rows in (input_ids_NS, valid_NS))
    same_BS = (chosen_BS == rejected_BS) & real_BS & also_BS
    return same_BS.int().cumprod(1).bool().repeat(2, 1)


def _load_images(found: Sequence[PromptImages], pairs: Sequence[TokenPair]) -> ImageInputs | None:
    if not found:
        return None
    try:
        return ImageInputs(tuple(images.inputs() for images in found), found[0].token_types)
    except RowError as error:
        rows = ", ".join(f"{pair.source} row {pair.row}" for pair in pairs)
        raise DataError(f"{error.flaw}: {error.detail} (one of {rows}). It was whole when the run began") from error


def _preferences(pairs: Sequence[TokenPair]) -> Tensor | None:
    import torch

    known = [pair.preference for pair in pairs if pair.preference is not None]
    return torch.tensor(known) if len(known) == len(pairs) else None
