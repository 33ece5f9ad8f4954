"""The contract of a discriminator, checked. Shape suffixes: N rows, S positions, H latent width, F features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ganpo_core.components import Discriminator
from ganpo_core.testing.changes import expect_options_matter
from ganpo_core.testing.expect import (
    expect,
    expect_component,
    expect_finite,
    expect_gradcheck,
    expect_same,
    expect_tensor,
    gradients,
)
from ganpo_core.testing.samples import LENGTHS, NUM_POSITIONS, ragged_latents, wider, with_garbage
from ganpo_core.types import Latents

NUM_ROWS = len(LENGTHS)
SLACK = 1.01
"""What a measured slope may exceed 1 by: spectral norms are running estimates from below."""


def check_discriminator(discriminator: Discriminator, *, latent_dim: int = 8) -> None:
    """Check the module that `build` makes for latents of width `latent_dim`."""
    expect_component(discriminator, Discriminator)
    check = _Check(discriminator, latent_dim)
    check.scores_are_finite()
    check.scoring_changes_nothing()
    check.only_valid_positions_count()
    check.rows_are_independent()
    check.gradients_are_right()
    check.saved_weights_restore_the_scores()
    check.features_give_the_scores()
    if discriminator.lipschitz:
        check.slope_is_at_most_one()
    expect_options_matter(discriminator, Discriminator, lambda other: _Check(other, latent_dim).outputs())


@dataclass(frozen=True)
class _Check:
    discriminator: Discriminator
    latent_dim: int

    @property
    def where(self) -> str:
        return f"{type(self.discriminator).__name__}.build(…).forward"

    def scores_are_finite(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            module, latents = self.module(dtype), self.latents(dtype)
            latents.states.requires_grad_()
            scores = module(latents.states, latents.mask)
            expect_tensor(scores, [NUM_ROWS], self.where, "scores, one a row")
            inputs = [latents.states, *(weight for weight in module.parameters() if weight.requires_grad)]
            found = gradients(scores, inputs)
            for gradient in found:
                expect_finite(gradient, self.where, "gradients, an empty row included")
            expect(found[0][latents.mask].ne(0).any(), self.where, "a gradient at the valid latents")

    def scoring_changes_nothing(self) -> None:
        module, latents = self.module(), self.latents()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        scores = module(latents.states, latents.mask)
        again = module(latents.states, latents.mask)
        expect(torch.equal(scores, again), self.where, "the same scores when called again in evaluation mode")
        for name, value in module.state_dict().items():
            expect(torch.equal(value, before[name]), self.where, f"'{name}' unchanged by scoring in evaluation mode")

    def only_valid_positions_count(self) -> None:
        module, latents = self.module(), self.latents()
        scores = module(latents.states, latents.mask)
        spoiled = with_garbage(latents).states.requires_grad_()
        others = module(spoiled, latents.mask)
        expect_same(others, scores, self.where, "no change from garbage in masked positions")
        (gradient,) = gradients(others, [spoiled])
        expect(gradient[~latents.mask].eq(0).all(), self.where, "no gradient at masked positions")
        longer = wider(latents)
        expect_same(module(longer.states, longer.mask), scores, self.where, "no change from more padding")

    def rows_are_independent(self) -> None:
        module, latents = self.module(), self.latents()
        scores = module(latents.states, latents.mask)
        alone = torch.cat([module(latents.states[i : i + 1], latents.mask[i : i + 1]) for i in range(NUM_ROWS)])
        expect_same(alone, scores, self.where, "a row to have the same score alone as among others")

    def gradients_are_right(self) -> None:
        module, latents = self.module(), self.latents()
        with sdpa_kernel(SDPBackend.MATH):
            expect_gradcheck(lambda states: module(states, latents.mask), [latents.states], self.where)
            states = latents.states.requires_grad_()
            (gradient,) = torch.autograd.grad(module(states, latents.mask).sum(), states, create_graph=True)
        for second in gradients(gradient.square(), list(module.parameters())):
            expect_finite(second, self.where, "second derivatives, which a gradient penalty takes")

    def saved_weights_restore_the_scores(self) -> None:
        module, other, latents = self.module(), self.module(seed=1), self.latents()
        other.load_state_dict(module.state_dict())
        same = torch.equal(other(latents.states, latents.mask), module(latents.states, latents.mask))
        expect(same, self.where, "the same scores from a second module that loads the first one's state_dict")

    def features_give_the_scores(self) -> None:
        module, latents = self.module(), self.latents()
        features, score = getattr(module, "features", None), getattr(module, "score", None)
        if features is None:
            return
        where = self.where.replace("forward", "features")
        found = features(latents.states, latents.mask)
        proper = found.dim() == 3 and found.shape[1] in (1, NUM_POSITIONS)
        expect(proper, where, "[N, S, F] or [N, 1, F]", list(found.shape))
        expect_tensor(found, [NUM_ROWS, *found.shape[1:]], where, "features")
        spoiled = features(with_garbage(latents).states, latents.mask)
        counted = latents.mask if found.shape[1] == NUM_POSITIONS else latents.mask.any(1, keepdim=True)
        expect_same(spoiled[counted], found[counted], where, "no change from garbage in masked positions")
        if score is not None:
            scores = module(latents.states, latents.mask)
            expected = "score(features(states, mask), mask) to equal forward(states, mask)"
            expect_same(score(found, latents.mask), scores, self.where.replace("forward", "score"), expected)

    def slope_is_at_most_one(self) -> None:
        """The dual of the root mean square over a row's n positions is sqrt(n) times the norm of its gradient."""
        module, latents = self.module(), self.latents()
        module.train()
        for _ in range(100):  # spectral norms settle
            module(latents.states, latents.mask)
        module.eval()
        for scale in (0.1, 1.0, 10.0):
            states = (latents.states * scale).requires_grad_()
            (gradient,) = gradients(module(states, latents.mask), [states])
            slope = (latents.mask.sum(1).sqrt() * gradient.square().sum((1, 2)).sqrt()).max().item()
            expect(slope <= SLACK, self.where, "a slope of at most 1, since `lipschitz` is True", f"{slope:.4g}")

    def outputs(self) -> dict[str, Tensor]:
        """Shapes of the weights, and scores in evaluation and in training mode."""
        module, latents = self.module(), self.latents()
        shapes = {name: torch.tensor(value.shape) for name, value in module.state_dict().items()}
        found = {**shapes, "scores": module(latents.states, latents.mask)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found["training scores"] = module.train()(latents.states, latents.mask)
        return found

    def module(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.discriminator.build(self.latent_dim)
        where = f"{type(self.discriminator).__name__}.build"
        expect(isinstance(module, nn.Module), where, "a torch module", type(module).__name__)
        return module.to(dtype).eval()

    def latents(self, dtype: torch.dtype = torch.float64) -> Latents:
        return ragged_latents(self.latent_dim, dtype=dtype)
