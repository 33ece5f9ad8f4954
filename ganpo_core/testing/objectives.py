"""The contract of an objective, checked. Shape suffixes: B pairs, T response tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ganpo_core.components import Objective
from ganpo_core.testing.changes import Outputs, expect_options_matter, named
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
from ganpo_core.types import PairLogps, PairLoss, TokenLogps

NUM_PAIRS, NUM_TOKENS = 5, 6
CHOSEN_LENGTHS, REJECTED_LENGTHS, PROMPT_LENGTHS = (4, 1, 3, 2, 6), (2, 5, 1, 6, 4), (1, 3, 0, 2, 5)


def check_objective(objective: Objective) -> None:
    """Check `loss` (and `loss_unpaired`, where it is defined) of an objective.

    The loss of a pair may depend on the other pairs of its micro-batch where `batch_statistics` says so, and be no
    function of which the gradient is the derivative where `stops_gradient` does.
    """
    expect_component(objective, Objective)
    check = _Check(objective)
    check.values_are_finite()
    check.only_response_tokens_count()
    if not objective.stops_gradient:
        check.gradients_are_right()
    check.order_of_pairs_does_not_matter()
    if not objective.batch_statistics:
        check.pairs_are_independent()
    check.better_margins_cost_less()
    if objective.takes_unpaired:
        check.unpaired_loss_is_finite()
    expect_options_matter(objective, Objective, lambda other: _Check(other).outputs())


@dataclass(frozen=True)
class _Check:
    objective: Objective

    @property
    def where(self) -> str:
        return f"{type(self.objective).__name__}.loss"

    def values_are_finite(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            policy, reference = self.pairs(0, dtype), self.pairs(1, dtype)
            result = self.loss(policy, reference)
            for name in ("per_pair", "chosen_reward", "rejected_reward"):
                expect_tensor(getattr(result, name), [NUM_PAIRS], self.where, name)
            self.gradients_are_finite(result.per_pair, policy)
            again = self.loss(policy, reference).per_pair
            expect(torch.equal(again, result.per_pair), self.where, "the same values when called again")
        for chosen, rejected in ((-1e4, -1.0), (-1.0, -1e4)):
            policy, reference = self.uniform(chosen, rejected), self.uniform(rejected, chosen)
            result = self.loss(policy, reference)
            expect_finite(result.per_pair, self.where, "per_pair at log-ratios of 1e4 nats")
            self.gradients_are_finite(result.per_pair, policy)

    def gradients_are_finite(self, per_pair: Tensor, policy: PairLogps) -> None:
        expect(per_pair.requires_grad, self.where, "per_pair to be differentiable in the policy's log-probabilities")
        for gradient in gradients(per_pair, _leaves(policy)):
            expect_finite(gradient, self.where, "gradients")

    def only_response_tokens_count(self) -> None:
        policy, reference = self.pairs(0), self.pairs(1)
        result = self.loss(policy, reference)
        for name, change in (("garbage in", _with_garbage), ("more columns of", _wider)):
            other = self.loss(_each(policy, change), _each(reference, change))
            for key in ("per_pair", "chosen_reward", "rejected_reward"):
                expected = f"{key} to be unchanged by {name} the padding"
                expect_same(getattr(other, key), getattr(result, key), self.where, expected)
        for gradient, side in zip(
            gradients(result.per_pair, _leaves(policy)), (policy.chosen, policy.rejected), strict=True
        ):
            expect(gradient[~side.mask].eq(0).all(), self.where, "no gradient at padding")

    def gradients_are_right(self) -> None:
        policy, reference = self.pairs(0), self.pairs(1)

        def per_pair(chosen: Tensor, rejected: Tensor) -> Tensor:
            sides = (replace(policy.chosen, logps=chosen), replace(policy.rejected, logps=rejected))
            return self.loss(replace(policy, chosen=sides[0], rejected=sides[1]), reference).per_pair

        expect_gradcheck(per_pair, _leaves(policy), self.where)

    def order_of_pairs_does_not_matter(self) -> None:
        policy, reference = self.pairs(0), self.pairs(1)
        order = torch.tensor([3, 0, 4, 2, 1])
        moved = self.loss(_rows(policy, order), _rows(reference, order)).per_pair
        expected = "pairs given in another order to have the same losses in that order"
        expect_same(moved, self.loss(policy, reference).per_pair[order], self.where, expected)

    def pairs_are_independent(self) -> None:
        policy, reference = self.pairs(0), self.pairs(1)
        halves = [
            self.loss(_rows(policy, index), _rows(reference, index)).per_pair
            for index in (torch.arange(2), torch.arange(2, NUM_PAIRS))
        ]
        expected = (
            "the loss of a pair not to depend on its micro-batch (if it must, say so in `batch_statistics`)"
        )
        expect_same(torch.cat(halves), self.loss(policy, reference).per_pair, self.where, expected)

    def better_margins_cost_less(self) -> None:
        middle = self.uniform(-12.0, -12.0)
        right = self.loss(self.uniform(-2.0, -22.0), middle).per_pair.mean().item()
        wrong = self.loss(self.uniform(-22.0, -2.0), middle).per_pair.mean().item()
        expected = "pairs ranked right by 20 nats to cost less than pairs ranked wrong by 20 nats"
        expect(right < wrong, self.where, expected, f"{right:.4g} and {wrong:.4g}")

    def unpaired_loss_is_finite(self) -> None:
        where = f"{type(self.objective).__name__}.loss_unpaired"
        policy, reference = self.pairs(0).chosen, self.pairs(1).chosen
        given = reference if self.objective.needs_reference else None
        for desirable in (torch.tensor([True, False, True, True, False]), torch.ones(NUM_PAIRS, dtype=torch.bool)):
            result = self.objective.loss_unpaired(policy, given, desirable)
            expect_tensor(result.per_response, [NUM_PAIRS], where, "per_response")
            expect_tensor(result.reward, [NUM_PAIRS], where, "reward")
            expect_finite(gradients(result.per_response, [policy.logps])[0], where, "gradients")

    def outputs(self) -> Outputs:
        """Losses, rewards and gradients beside past opponents, with the batch statistics of this one micro-batch."""
        policy, reference = self.pairs(0), replace(self.pairs(1), opponents=(self.pairs(2), self.pairs(3)))
        given = reference if self.objective.needs_reference else None
        behind = self.objective.batch_values(policy, given)
        batch = {
            name: values if self.objective.batch_statistics[name] == "micro_batch" else values.detach().mean()
            for name, values in behind.items()
            if name in self.objective.batch_statistics
        }
        result = self.loss(replace(policy, batch=batch), reference)
        found = {"per_pair": result.per_pair, "chosen": result.chosen_reward, "rejected": result.rejected_reward}
        found |= named("gradient", gradients(result.per_pair, _leaves(policy)))
        found |= {f"decay of {name}": torch.tensor(self.objective.decay_of(name)) for name in batch}
        if self.objective.takes_unpaired:
            alone = None if given is None else given.chosen
            desirable = torch.arange(NUM_PAIRS) % 2 == 0
            unpaired = self.objective.loss_unpaired(replace(policy.chosen, batch=batch), alone, desirable)
            found |= {"per_response": unpaired.per_response, "reward": unpaired.reward}
        return found

    def loss(self, policy: PairLogps, reference: PairLogps) -> PairLoss:
        result = self.objective.loss(policy, reference if self.objective.needs_reference else None)
        expect(isinstance(result, PairLoss), self.where, "a PairLoss", type(result).__name__)
        return result

    def pairs(self, seed: int, dtype: torch.dtype = torch.float64) -> PairLogps:
        """Random log-probabilities; the policy's are leaves."""
        generator = torch.Generator().manual_seed(seed)

        def side(lengths: tuple[int, ...]) -> TokenLogps:
            def draw() -> Tensor:
                return torch.rand(NUM_PAIRS, NUM_TOKENS, generator=generator, dtype=torch.float64).to(dtype)

            mask = torch.arange(NUM_TOKENS) < torch.tensor(lengths)[:, None]
            statistics = {name: draw() for name in sorted(self.objective.token_statistics)}
            logps = (-3 * draw() - 0.05).requires_grad_(seed == 0)
            ids = torch.randint(4, mask.shape, generator=generator) if "token_ids" in self.objective.needs else None
            return TokenLogps(logps, mask, statistics, ids)

        pairs = PairLogps(side(CHOSEN_LENGTHS), side(REJECTED_LENGTHS))
        if "prompt" in self.objective.needs:
            pairs = replace(pairs, prompt=side(PROMPT_LENGTHS))
        if "preference" in self.objective.needs:
            chance = 0.5 + 0.5 * torch.rand(NUM_PAIRS, generator=generator, dtype=torch.float64)
            pairs = replace(pairs, preference=chance)
        return pairs

    def uniform(self, chosen: float, rejected: float) -> PairLogps:
        """Pairs whose responses have these log-probabilities, spread evenly over their tokens, in float32."""
        pairs = self.pairs(0, torch.float32)

        def spread(side: TokenLogps, total: float) -> TokenLogps:
            logps = (total / side.length)[:, None].expand(side.mask.shape).detach().clone().requires_grad_()
            return replace(side, logps=logps)

        return replace(pairs, chosen=spread(pairs.chosen, chosen), rejected=spread(pairs.rejected, rejected))


def _leaves(pairs: PairLogps) -> tuple[Tensor, Tensor]:
    return pairs.chosen.logps, pairs.rejected.logps


def _each(pairs: PairLogps, change: Callable[[TokenLogps], TokenLogps]) -> PairLogps:
    return replace(pairs, chosen=change(pairs.chosen), rejected=change(pairs.rejected))


def _with_garbage(tokens: TokenLogps) -> TokenLogps:
    def spoil(values: Tensor) -> Tensor:
        return values.masked_fill(~tokens.mask, -GARBAGE)

    return replace(tokens, logps=spoil(tokens.logps), statistics=_mapped(tokens.statistics, spoil))


def _wider(tokens: TokenLogps) -> TokenLogps:
    def widen(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, 3))

    ids = None if tokens.token_ids is None else widen(tokens.token_ids)
    return TokenLogps(widen(tokens.logps), widen(tokens.mask), _mapped(tokens.statistics, widen), ids)


def _rows(pairs: PairLogps, index: Tensor) -> PairLogps:
    def take(values: Tensor) -> Tensor:
        return values[index]

    def rows(tokens: TokenLogps) -> TokenLogps:
        ids = None if tokens.token_ids is None else take(tokens.token_ids)
        return TokenLogps(take(tokens.logps), take(tokens.mask), _mapped(tokens.statistics, take), ids)

    moved = _each(pairs, rows)
    if pairs.prompt is not None:
        moved = replace(moved, prompt=rows(pairs.prompt))
    return moved if pairs.preference is None else replace(moved, preference=take(pairs.preference))


def _mapped(statistics: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {name: change(values) for name, values in statistics.items()}
