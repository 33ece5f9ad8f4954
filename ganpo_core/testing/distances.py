"""The contract of a direct distance, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganpo_core.components import Divergence
from ganpo_core.testing.expect import (
    GARBAGE,
    expect,
    expect_finite,
    expect_gradcheck,
    expect_same,
    expect_tensor,
    gradients,
)
from ganpo_core.testing.samples import LENGTHS, ragged_latents, wider, with_garbage
from ganpo_core.types import Latents

LATENT_DIM = 4
NUM_LEVELS = 1001


@dataclass(frozen=True)
class DistanceCheck:
    """Each method checks one promise."""

    divergence: Divergence

    @property
    def where(self) -> str:
        return f"{type(self.divergence).__name__}.distance"

    def values_are_finite(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            policy, reference = _groups(dtype)
            policy.states.requires_grad_()
            value = self.distance(policy, reference)
            expect_tensor(value, [], self.where, "a scalar")
            if self.divergence.estimate_range[0] == 0:
                expect(value > 0, self.where, "a positive distance of latents that differ", value.item())
            expect(value.requires_grad, self.where, "a distance that is differentiable in the policy's latents")
            expect_finite(gradients(value, [policy.states])[0], self.where, "gradients")
            again = self.distance(policy, reference)
            expect(torch.equal(again, value), self.where, "the same value when called again with the same randomness")
        none = torch.zeros_like(policy.mask)
        empty = self.distance(Latents(policy.states, none), Latents(reference.states, none))
        expect(empty == 0, self.where, "0 where no position is valid", empty.item())
        expect(gradients(empty, [policy.states])[0].eq(0).all(), self.where, "no gradient where no position is valid")

    def equal_latents_are_at_rest(self) -> None:
        latents = ragged_latents(LATENT_DIM, 0)
        states = latents.states.clone().requires_grad_()
        value = self.distance(Latents(states, latents.mask), latents)
        expect(value.abs() < 1e-12, self.where, "0 where policy and reference agree", value.item())
        force = gradients(value, [states])[0].abs().max().item()
        expect(force < 1e-12, self.where, "no gradient where policy and reference agree", f"{force:.3g}")

    def only_valid_positions_count(self) -> None:
        policy, reference = _groups()
        value = self.distance(policy, reference)
        spoiled = Latents(with_garbage(policy).states.requires_grad_(), policy.mask)
        other = self.distance(spoiled, with_garbage(reference, -GARBAGE))
        expect_same(other, value, self.where, "no change from garbage in masked positions")
        expect(gradients(other, [spoiled.states])[0][~policy.mask].eq(0).all(), self.where, "no gradient at padding")
        longer = self.distance(wider(policy), wider(reference))
        expect_same(longer, value, self.where, "no change from more padding")

    def order_of_rows_does_not_matter(self) -> None:
        (policy, reference), order = _groups(), torch.tensor([4, 2, 0, 1, 3])
        moved = [Latents(group.states[order], group.mask[order]) for group in (policy, reference)]
        value = self.distance(policy, reference)
        expected = "no change when both groups are put into another order"
        expect_same(self.distance(moved[0], moved[1]), value, self.where, expected)

    def gradients_are_right(self) -> None:
        policy, reference = _groups()
        expect_gradcheck(
            lambda states: self.distance(Latents(states, policy.mask), reference),
            [policy.states],
            self.where,
        )

    def distance_is_a_mean_over_positions(self) -> None:
        policy, reference = _groups()
        total = torch.zeros(())
        for start, stop in ((0, 2), (2, len(LENGTHS))):
            part = self.distance(policy.rows(start, stop), reference.rows(start, stop))
            total = total + part * sum(LENGTHS[start:stop]) / sum(LENGTHS)
        expected = "micro-batches weighted by valid positions to add up (else declare `additive = False`)"
        expect_same(total, self.distance(policy, reference), self.where, expected)


    def a_shift_costs_its_closed_form(self) -> None:
        """Of 1001 equally likely values of a normal distribution, moved one by one."""
        for shift in (0.5, 2.0):
            wanted = self.divergence.closed_form(shift)
            if wanted is None:
                return
            levels = (torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS
            normal = math.sqrt(2) * torch.erfinv(2 * levels - 1)[:, None, None]
            mask = torch.ones(NUM_LEVELS, 1, dtype=torch.bool)
            found = self.distance(Latents(normal + shift, mask), Latents(normal, mask)).item()
            expected = f"its closed form {wanted:.4g} between normal distributions {shift:g} apart, within 2 %"
            expect(abs(found - wanted) <= 0.02 * abs(wanted) + 1e-9, self.where, expected, f"{found:.4g}")

    def the_queue_holds_rows(self) -> None:
        size = self.divergence.queue_size
        if not size:
            return
        policy, reference = _groups()
        rows = self.divergence.remember(reference)
        proper = rows.dim() == 2 and 0 < len(rows) <= size and not rows.requires_grad
        where = f"{type(self.divergence).__name__}.remember"
        expect(proper, where, f"1 to {size} rows [M, F] without a graph", list(rows.shape))
        value = self.distance(policy, replace(reference, past=rows + 1))
        expect_tensor(value, [], self.where, "a scalar beside remembered rows")
        expect(not torch.equal(value, self.distance(policy, reference)), self.where, "a queue to change the distance")

    def outputs(self) -> dict[str, Tensor]:
        """The distance, beside remembered rows where it asks for them, and its gradient."""
        policy, reference = _groups()
        policy.states.requires_grad_()
        if self.divergence.queue_size:
            reference = replace(reference, past=self.divergence.remember(reference) + 1)
        value = self.distance(policy, reference)
        return {"value": value, "gradient": gradients(value, [policy.states])[0]}

    def distance(self, policy: Latents, reference: Latents) -> Tensor:
        """With the same random numbers at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.divergence.distance(policy, reference)


def _groups(dtype: torch.dtype = torch.float64) -> tuple[Latents, Latents]:
    """Latents of policy and reference."""
    return ragged_latents(LATENT_DIM, 0, dtype), ragged_latents(LATENT_DIM, 1, dtype)
