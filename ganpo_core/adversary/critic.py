"""A discriminator at work: its module, any learned transform of the latents before it, and its spectral norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from ganpo_core.asking import ask, ask_function, kind_of, method_name
from ganpo_core.components import Discriminator, LatentExtractor
from ganpo_core.errors import PluginError
from ganpo_core.types import Latents


@dataclass(frozen=True)
class Judgement:
    """A critic's answer to N rows."""

    scores: Tensor
    """[N], at least float32."""
    valid: Tensor
    """[N] bool."""
    features: Tensor | None
    """[N, S, F] or [N, 1, F], where asked for."""


class Critic(nn.Module):
    """One of a regularizer's two critics."""

    def __init__(
        self,
        discriminator: Discriminator,
        latents: LatentExtractor,
        latent_dim: int,
        dtype: torch.dtype,
        iterate_in_forward: bool = False,
    ) -> None:
        """`iterate_in_forward` starts spectral norms cold and lets every forward pass run a power iteration."""
        super().__init__()
        self.discriminator, self.extractor = discriminator, latents
        self.transform = ask(latents, "build", latent_dim)
        if self.transform is not None:
            with torch.no_grad():
                latent_dim = self.transform(torch.zeros(1, 1, latent_dim)).shape[-1]
        self.module = ask(discriminator, "build", latent_dim)
        if not isinstance(self.module, nn.Module):
            built = method_name(discriminator, "build")
            raise PluginError(f"{built} returned {kind_of(self.module)}; expected a torch module")
        self.to(dtype)
        self.dtype = dtype
        self._iterates_in_forward = iterate_in_forward
        if iterate_in_forward:
            self._cool_spectral_norms()
        if discriminator.frozen:
            self.requires_grad_(False)
        self.set_dropout(True)

    @property
    def offers_features(self) -> bool:
        """True where `feature_matching` can be used."""
        return hasattr(self.module, "features")

    def forward(self, latents: Latents, features: bool = False) -> Judgement:
        """Score N rows, in one pass where the module offers `score` beside `features`."""
        states = latents.states.to(self.dtype)
        if self.transform is not None:
            states = ask_function(self.extractor, _built(self.extractor, self.transform), self.transform, states)
        found: Tensor | None = None
        if features:
            found = self._ask("features", states, latents.mask)
            if not isinstance(found, Tensor) or found.dim() != 3 or len(found) != len(states):
                raise PluginError(
                    f"{self.name}.features returned {kind_of(found)} for {len(states)} rows; expected [N, S, F]"
                )
        if found is not None and hasattr(self.module, "score"):
            scores = self._ask("score", found, latents.mask)
        else:
            scores = self._ask("forward", states, latents.mask)
        if not isinstance(scores, Tensor) or scores.shape != latents.mask.shape[:1]:
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise PluginError(
                f"{self.name}.forward returned scores of shape {shape} for {latents.mask.shape[0]} rows; "
                "a discriminator's module returns one score a row, [N]"
            )
        valid = latents.mask.any(dim=1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~valid, 0.0)
        return Judgement(scores, valid, found)

    @property
    def name(self) -> str:
        """The module, with the plugin of the discriminator that built it."""
        return _built(self.discriminator, self.module)

    def _ask(self, method: str, *arguments: Tensor) -> Tensor:
        function = self.module if method == "forward" else getattr(self.module, method)
        scores: Tensor = ask_function(self.discriminator, f"{self.name}.{method}", function, *arguments)
        return scores

    def set_dropout(self, on: bool) -> None:
        """Train or evaluation mode; spectral norms iterate in `step_spectral_norms` alone, unless asked otherwise."""
        self.train(on)
        for _, _, norm in self._spectral_norms():
            norm.train(on and self._iterates_in_forward)

    @torch.no_grad()
    def step_spectral_norms(self) -> None:
        """One power iteration of every spectral norm; called once per optimizer step."""
        if self._iterates_in_forward:
            return
        for module, name, norm in self._spectral_norms():
            norm.train()
            getattr(module, name)  # reading the weight runs the iteration
            norm.eval()

    @torch.no_grad()
    def largest_singular_value(self) -> float | None:
        """Of the weights that spectral norms keep at 1, exactly; None where there are none. Waits for the device."""
        norms = [
            torch.linalg.matrix_norm(getattr(module, name).detach().flatten(1).double(), 2)
            for module, name, norm in self._spectral_norms()
            if getattr(module, name).dim() > 1
        ]
        return float(torch.stack(norms).max()) if norms else None

    @torch.no_grad()
    def _cool_spectral_norms(self) -> None:
        """Random singular vectors, as before any power iteration."""
        for _, _, norm in self._spectral_norms():
            for vector in norm.buffers():
                vector.copy_(torch.nn.functional.normalize(torch.randn_like(vector), dim=0))

    def _spectral_norms(self) -> list[tuple[nn.Module, str, nn.Module]]:
        return [
            (module, name, norm)
            for module in self.modules()
            if parametrize.is_parametrized(module)
            for name, chain in cast(nn.ModuleDict, module.parametrizations).items()
            for norm in cast(nn.ModuleList, chain)
            if isinstance(norm, _SpectralNorm)
        ]


def _built(owner: Discriminator | LatentExtractor, module: nn.Module) -> str:
    """A module by its class, with the component that built it."""
    return f"{method_name(owner, 'build')} -> {type(module).__name__}"
