"""The contract of a latent extractor, checked. Shape suffixes: N rows, S positions, H latent width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganpo_core.components import LatentExtractor
from ganpo_core.testing.changes import expect_options_matter
from ganpo_core.testing.expect import (
    GARBAGE,
    expect,
    expect_component,
    expect_finite,
    expect_gradcheck,
    expect_same,
    expect_tensor,
    gradients,
)
from ganpo_core.types import Latents, Source, TokenMap

NUM_ROWS, NUM_POSITIONS, WIDTH = 4, 7, 6
LENGTHS, PROMPT_LENGTHS = (7, 4, 5, 3), (2, 1, 4, 3)
"""Of the rows; the last has no response."""


def check_extractor(extractor: LatentExtractor, *, model: nn.Module | None = None) -> None:
    """Check `sources`, `extract`, `selected` and `build`; `model` is for extractors that look into it."""
    expect_component(extractor, LatentExtractor)
    check = _Check(extractor, model or nn.Module())
    check.sources_are_named_once()
    check.latents_are_well_formed()
    check.only_selected_positions_count()
    check.rows_are_independent()
    check.gradients_are_right()
    check.learned_transform_keeps_positions()
    expect_options_matter(extractor, LatentExtractor, lambda other: _Check(other, check.model).outputs())


@dataclass(frozen=True)
class _Check:
    extractor: LatentExtractor
    model: nn.Module

    @property
    def name(self) -> str:
        return type(self.extractor).__name__

    @property
    def where(self) -> str:
        return f"{self.name}.extract"

    def sources(self) -> tuple[Source, ...]:
        return self.extractor.sources(self.model)

    def sources_are_named_once(self) -> None:
        sources = self.sources()
        proper = isinstance(sources, tuple) and bool(sources) and all(isinstance(s, Source) for s in sources)
        expect(proper, f"{self.name}.sources", "a tuple of at least one Layer, Module or ImageFeatures", sources)
        expect(len(set(sources)) == len(sources), f"{self.name}.sources", "every source once", sources)

    def latents_are_well_formed(self) -> None:
        tokens = _tokens()
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            states = self.captured(0, dtype)
            latents = self.extract(states, tokens)
            num_positions = latents.mask.shape[-1]
            proper = latents.mask.dtype == torch.bool and latents.mask.shape == (NUM_ROWS, num_positions)
            expect(proper, self.where, "a bool mask [N, S]", f"{latents.mask.dtype} {list(latents.mask.shape)}")
            width = latents.states.shape[-1]
            expect_tensor(latents.states, [NUM_ROWS, num_positions, width], self.where, "states")
            self.extract(self.captured(1, dtype), tokens)
            again = self.extract(states, tokens)
            same = torch.equal(again.states, latents.states) and torch.equal(again.mask, latents.mask)
            expect(same, self.where, "the same latents after a call for another model: an extractor keeps no state")
        selected = self.extractor.selected(tokens)
        proper = selected.dtype == torch.bool and selected.shape == tokens.valid.shape
        expect(
            proper, f"{self.name}.selected", "a bool mask like the tokens'", f"{selected.dtype} {list(selected.shape)}"
        )
        expect(not (selected & ~tokens.valid).any(), f"{self.name}.selected", "no padding among the positions read")
        agrees = torch.equal(selected.any(1), latents.mask.any(1))
        expect(agrees, self.where, "a valid latent in exactly those rows of which `selected` names a position")

    def only_selected_positions_count(self) -> None:
        tokens = _tokens()
        plain = self.extract(self.captured(0), tokens)
        unread = ~self.extractor.selected(tokens)[..., None]
        spoiled = self.extract({s: h.masked_fill(unread, GARBAGE) for s, h in self.captured(0).items()}, tokens)
        expected = "valid latents to be unchanged by garbage in positions that `selected` leaves out"
        expect_same(spoiled.states[spoiled.mask], plain.states[plain.mask], self.where, expected)
        padded = {source: nn.functional.pad(h, (0, 0, 0, 3)) for source, h in self.captured(0).items()}
        wider = self.extract(padded, _tokens(extra=3))
        expected = "valid latents to be unchanged by more padding"
        expect_same(wider.states[wider.mask], plain.states[plain.mask], self.where, expected)

    def rows_are_independent(self) -> None:
        tokens, order = _tokens(), torch.tensor([2, 0, 3, 1])
        plain = self.extract(self.captured(0), tokens)
        moved = self.extract({s: h[order] for s, h in self.captured(0).items()}, _rows(tokens, order))
        expected = "rows given in another order to have the same latents in that order"
        expect_same(moved.states, plain.states[order], self.where, expected)

    def gradients_are_right(self) -> None:
        tokens, states = _tokens(), self.captured(0)

        def valid_latents(*tensors: Tensor) -> Tensor:
            latents = self.extract(dict(zip(states, tensors, strict=True)), tokens)
            return latents.states[latents.mask]

        expect_gradcheck(valid_latents, list(states.values()), self.where)
        half = [h.to(torch.bfloat16).requires_grad_() for h in states.values()]
        for gradient in gradients(valid_latents(*half), half):
            expect_finite(gradient, self.where, "gradients")

    def learned_transform_keeps_positions(self) -> None:
        latents = self.extract(self.captured(0, torch.float32), _tokens())
        module = self.build(latents.states.shape[-1])
        where = f"{self.name}.build"
        declared = self.extractor.is_learned
        expect(declared == (module is not None), where, f"a module, or None, as is_learned = {declared} says", module)
        if module is None:
            return
        changed = module(latents.states)
        shape = [*latents.states.shape[:2], changed.shape[-1]]
        expect_tensor(changed, shape, where, "a module's output [N, S, H']")

    def build(self, latent_dim: int) -> nn.Module | None:
        """The learned transform, with the same first weights at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.extractor.build(latent_dim)

    def outputs(self) -> dict[str, Tensor]:
        """What is captured, the latents, what a learned transform makes of them, and what core is asked to do."""
        latents = self.extract(self.captured(0, torch.float32), _tokens())
        module = self.build(latents.states.shape[-1])
        text = repr(self.sources()).encode()
        return {
            "sources": torch.tensor(list(text)),
            "states": latents.states if module is None else module(latents.states),
            "mask": latents.mask,
            "standardized": torch.tensor(self.extractor.is_standardized),
        }

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        latents = self.extractor.extract(captured, tokens)
        expect(isinstance(latents, Latents), self.where, "Latents", type(latents).__name__)
        return latents

    def captured(self, seed: int, dtype: torch.dtype = torch.float64) -> dict[Source, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = (NUM_ROWS, NUM_POSITIONS, WIDTH)
        return {
            source: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for source in self.sources()
        }


def _tokens(extra: int = 0) -> TokenMap:
    """Right-padded rows; an image where the first two start."""
    position = torch.arange(NUM_POSITIONS + extra)
    valid = position < torch.tensor(LENGTHS)[:, None]
    prompt = position < torch.tensor(PROMPT_LENGTHS)[:, None]
    image = (position == 0) & (torch.arange(NUM_ROWS) < 2)[:, None]
    shared = position < torch.tensor(PROMPT_LENGTHS)[:, None] + torch.tensor([1, 0, 0, 0])[:, None]
    return TokenMap(valid, prompt, valid & ~prompt, image, shared & valid)


def _rows(tokens: TokenMap, index: Tensor) -> TokenMap:
    return tokens.each(lambda mask: mask[index])
