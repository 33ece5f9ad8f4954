"""The residual stream of one or more layers, token by token.

Shape suffixes: N rows, S positions, K of them kept, H latent width (of all layers together), L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ganpo_core import LatentExtractor, Latents, Layer, PositiveInt, Source, TokenMap
from ganpo_latents.positions import evenly_spaced, kept, last
from ganpo_latents.transforms import LayerMix, projected, scaled

Norm = Literal["none", "rms", "layer", "zscore"]


@dataclass(frozen=True)
class HiddenState(LatentExtractor):
    """Hidden states of every selected token: [N, S, H], H the model's width times the number of layers.

    Source: arXiv 2601.22083, section 4.1, which reads the last layer at every position.
    """

    matters_with: ClassVar = {
        "combine": {"layer": (1, 2)},
        "final_norm": {"layer": 1},
        "projection_dim": {"project": "fixed", "projection_dim": 2},
    }

    layer: int | float | tuple[int | float, ...] = -1
    """0: the embeddings; 1, 2, …: after that decoder layer; negative: from the end, -1 being what the head reads, after
    the final norm; a fraction in (0, 1): that part of the depth. Several layers are combined."""
    combine: Literal["concat", "mean", "mix"] = "concat"
    """Several layers side by side, averaged, or averaged with weights that the critics learn."""
    final_norm: bool = False
    """Read inner layers through the model's final norm, as the head would (the logit lens)."""
    positions: Literal["all", "response", "prompt", "distinct"] = "all"
    """Which tokens count; `response` includes the end of sequence, `distinct` is the response from the first token in
    which chosen and rejected differ. Positions keep their places, others are masked."""
    drop_last: bool = False
    """Leave out the last token of the response, whose state predicts what comes after it."""
    every: PositiveInt = 1
    """Of the selected tokens of a row, every so-manieth alone; the others are not even handed to a critic."""
    num_positions: PositiveInt | None = None
    """At most so many tokens of a row, spread evenly over those selected: the same ones in policy and reference."""
    norm: Norm | None = None
    """Scale the states of each layer over its width, without parameters, which evens out layers of different size; or
    `zscore`: subtract the reference's mean and divide by its deviation, dimension by dimension, both measured before
    the first step. Null: none for one layer, rms for several."""
    project: Literal["none", "fixed", "learned"] = "none"
    """To fewer dimensions: by random orthonormal directions, the same in every run, or by a matrix that the critics
    learn."""
    projection_dim: PositiveInt = 256
    """Width after it; never more than before."""

    def __post_init__(self) -> None:
        if not self._layers:
            raise ValueError("layer names no layer; give one, or a list of them")
        if len(set(self._layers)) < len(self._layers):
            raise ValueError(f"layer names one layer twice: {list(self._layers)}")
        for layer in self._layers:
            if isinstance(layer, float) and not 0 < layer < 1:
                raise ValueError(f"layer {layer} is neither a whole number nor a fraction between 0 and 1")
        if self._mixes and self.project == "fixed":
            raise ValueError("combine: mix is learned, after which a fixed projection cannot come; use project: learned")

    @property
    def is_learned(self) -> bool:
        return self._mixes or self.project == "learned"

    @property
    def is_standardized(self) -> bool:
        return self.norm == "zscore"

    def sources(self, model: nn.Module) -> tuple[Source, ...]:
        return tuple(Layer(layer, self.final_norm) for layer in self._layers)

    def extract(self, captured: Mapping[Source, Tensor], tokens: TokenMap) -> Latents:
        states_NSH, mask_NS = self.states(captured), self.selected(tokens)
        num_kept = -(-mask_NS.shape[1] // self.every)
        if self.num_positions is not None:
            num_kept = min(num_kept, self.num_positions)
        return kept(Latents(states_NSH, mask_NS), num_kept)

    def selected(self, tokens: TokenMap) -> Tensor:
        mask_NS = tokens.valid
        if self.positions != "all":
            mask_NS = mask_NS & (tokens.prompt if self.positions == "prompt" else tokens.response)
        if self.positions == "distinct" and tokens.shared is not None:
            mask_NS = mask_NS & ~tokens.shared
        if self.drop_last:
            mask_NS = mask_NS & ~last(tokens.response)
        if self.every > 1:
            mask_NS = mask_NS & ((mask_NS.cumsum(1) - 1) % self.every == 0)
        return mask_NS if self.num_positions is None else evenly_spaced(mask_NS, self.num_positions)

    def build(self, latent_dim: int) -> nn.Module | None:
        if not self.is_learned:
            return None
        parts: list[nn.Module] = []
        if self._mixes:
            parts.append(LayerMix(len(self._layers)))
            latent_dim //= len(self._layers)
        if self.project == "learned":
            parts.append(nn.Linear(latent_dim, min(self.projection_dim, latent_dim), bias=False))
        return nn.Sequential(*parts)

    def states(self, captured: Mapping[Source, Tensor]) -> Tensor:
        """[N, S, H], the layers scaled and combined, at every position."""
        norm = self.norm or ("rms" if len(self._layers) > 1 else "none")
        layers = [scaled(captured[Layer(layer, self.final_norm)], norm) for layer in self._layers]
        if self.combine == "mean":
            states_NSH = torch.stack(layers).mean(0)
        else:
            states_NSH = layers[0] if len(layers) == 1 else torch.cat(layers, dim=-1)
        return projected(states_NSH, self.projection_dim) if self.project == "fixed" else states_NSH

    @property
    def _layers(self) -> tuple[int | float, ...]:
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)

    @property
    def _mixes(self) -> bool:
        return self.combine == "mix" and len(self._layers) > 1
