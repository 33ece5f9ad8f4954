"""The contract of a divergence that plays a game with a critic, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganpo_core.components import Divergence
from ganpo_core.testing.changes import named
from ganpo_core.testing.closed_forms import best_estimate
from ganpo_core.testing.expect import (
    GARBAGE,
    expect,
    expect_finite,
    expect_gradcheck,
    expect_same,
    expect_tensor,
    gradients,
)
from ganpo_core.testing.samples import ragged_latents, with_garbage
from ganpo_core.types import Latents, Scores

NUM_ROWS, LATENT_DIM = 5, 4


@dataclass(frozen=True)
class GameCheck:
    """Each method checks one promise."""

    divergence: Divergence

    @property
    def name(self) -> str:
        return type(self.divergence).__name__

    def options_agree(self) -> None:
        proper = self.divergence.allows_cross or self.divergence.cross_weight == 0
        expect(proper, self.name, "cross_weight 0 where allows_cross is False", self.divergence.cross_weight)
        expect(bool(self.divergence.forms), self.name, "at least one form of policy_loss in `forms`")
        low, high = self.divergence.estimate_range
        expect(low < high, self.name, "an estimate_range (low, high)", (low, high))

    def values_are_finite(self) -> None:
        for dtype, scale in ((torch.float32, 1.0), (torch.float64, 1.0), (torch.bfloat16, 1.0), (torch.float32, 1e4)):
            for sign in (1, -1):
                high, low = self.random_scores(0, dtype, sign * scale), self.random_scores(1, dtype, -sign * scale)
                again = self.losses(high, low)
                for where, value in self.losses(high, low).items():
                    expect_tensor(value, [], where, f"a scalar at scores near {scale:g}")
                    expect(torch.equal(value, again[where]), where, "the same value when called again")
                    for gradient in gradients(value, [high.values, low.values]):
                        expect_finite(gradient, where, f"gradients at scores near {scale:g}")

    def gradients_are_right(self) -> None:
        high, low = self.random_scores(0), self.random_scores(1)
        for where in self.losses(high, low):

            def loss(high_N: Tensor, low_N: Tensor, where: str = where) -> Tensor:
                return self.losses(Scores(high_N, high.valid, high.mean), Scores(low_N, low.valid, low.mean))[where]

            expect_gradcheck(loss, [high.values, low.values], where)

    def only_valid_rows_count(self) -> None:
        high, low = self.random_scores(0), self.random_scores(1)
        wrong = self.losses(*(Scores(s.values.masked_fill(~s.valid, GARBAGE), s.valid, s.mean) for s in (high, low)))
        none = torch.zeros_like(high.valid)
        empty = self.losses(Scores(high.values, none, high.mean), Scores(low.values, none, low.mean))
        for where, value in self.losses(high, low).items():
            expect_same(wrong[where], value, where, "no change from garbage in rows that are not valid")
            expect_finite(empty[where], where, "value where no row is valid")

    def order_of_rows_does_not_matter(self) -> None:
        high, low = self.random_scores(0), self.random_scores(1)
        order = torch.tensor([4, 2, 0, 1, 3])
        moved = self.losses(_rows(high, order), _rows(low, order))
        for where, value in self.losses(high, low).items():
            expect_same(moved[where], value, where, "no change when both groups are put into another order")

    def losses_are_means_over_rows(self) -> None:
        high, low = self.random_scores(0), self.random_scores(1)
        first, second = torch.arange(1), torch.arange(1, 4)  # of the four valid rows
        parts = [self.losses(_rows(high, index), _rows(low, index)) for index in (first, second)]
        for where, value in self.losses(high, low).items():
            expected = "micro-batches weighted by their rows to add up (else declare `additive = False`)"
            expect_same(parts[0][where] / 4 + 3 * parts[1][where] / 4, value, where, expected)

    def the_critic_learns_the_order(self) -> None:
        where = f"{self.name}.critic_loss"
        right = self.divergence.critic_loss(_constant(1.0), _constant(-1.0))
        wrong = self.divergence.critic_loss(_constant(-1.0), _constant(1.0))
        expected = "high scores above low ones to cost less than the reverse"
        expect(right < wrong, where, expected, f"{right.item():.4g} and {wrong.item():.4g}")
        high, low = _constant(0.0), _constant(0.0)
        up, down = gradients(self.divergence.critic_loss(high, low), [high.values, low.values])
        expected = "descent from equal scores to raise the high ones above the low ones"
        expect(up.sum() < down.sum(), where, expected, f"gradients {up.sum().item():.4g} and {down.sum().item():.4g}")

    def the_policy_is_pulled_to_the_anchor(self) -> None:
        for form in self.divergence.forms:
            policy, anchor = _constant(-1.0), _constant(0.5)
            (gradient,) = gradients(self.divergence.policy_loss(policy, anchor, form), [policy.values])
            where = f"{self.name}.policy_loss in form {form}"
            expected = "descent to raise policy scores that lie below the anchor's"
            expect(gradient.lt(0).all(), where, expected, f"gradients {gradient.tolist()}")

    def equal_groups_show_no_divergence(self) -> None:
        where = f"{self.name}.estimate"
        for level in (-2.0, 0.0, 0.5, 2.0):
            scores = self.random_scores(0)
            values = scores.values.detach() + level
            mean = None if scores.mean is None else scores.average(values)
            same = Scores(values, scores.valid, mean)
            estimate = self.divergence.estimate(same, same).item()
            expect(
                estimate <= 1e-9, where, "nothing above 0 for two equal groups, whatever the critic", f"{estimate:.4g}"
            )

    def penalty_is_finite_and_sees_no_padding(self) -> None:
        where = f"{self.name}.penalty"
        for dtype in (torch.float32, torch.float64):
            critic = _small_critic(dtype)
            groups = [ragged_latents(LATENT_DIM, seed, dtype) for seed in range(2)]
            value = self.penalty(critic, groups)
            if value is None:
                return
            expect_tensor(value, [], where, "a scalar")
            for gradient in gradients(value, list(critic.parameters())):
                expect_finite(gradient, where, "gradients")
            spoiled = self.penalty(critic, [with_garbage(latents) for latents in groups])
            assert spoiled is not None
            expect_same(spoiled, value, where, "no change from garbage in masked positions", 1e-6)

    def projection_settles_at_once(self) -> None:
        where = f"{self.name}.project"
        critic = _small_critic(torch.float32)
        with torch.no_grad():
            self.divergence.project(critic)
            once = [weight.clone() for weight in critic.parameters()]
            self.divergence.project(critic)
        for weight, before in zip(critic.parameters(), once, strict=True):
            expect_finite(weight, where, "weights")
            expect(torch.equal(weight, before), where, "no change from a second call")

    def the_best_critic_reaches_the_closed_form(self) -> None:
        """Trained on exact densities of N(0, 1) and N(1, 1), a critic stays below the divergence and comes near it."""
        wanted = self.divergence.closed_form(1.0)
        if wanted is not None:
            found = best_estimate(self.divergence, 1.0)
            expected = f"0.8 to 1 times its closed form {wanted:.4g} from a trained critic"
            expect(0.8 * wanted <= found <= wanted + 1e-6, f"{self.name}.estimate", expected, f"{found:.4g}")

    def outputs(self) -> dict[str, Tensor]:
        """Losses and their gradients, the penalty, and what projecting leaves of a critic's weights."""
        high, low = self.random_scores(0), self.random_scores(1)
        found: dict[str, Tensor] = {}
        for where, value in self.losses(high, low).items():
            found |= {where: value, **named(where, gradients(value, [high.values, low.values]))}
        critic = _small_critic(torch.float64)
        groups = [ragged_latents(LATENT_DIM, seed) for seed in range(2)]
        penalty = self.penalty(critic, groups)
        found["penalty"] = torch.zeros(()) if penalty is None else penalty
        with torch.no_grad():
            self.divergence.project(critic)
        return found | named("projected", list(critic.parameters()))

    def penalty(self, critic: nn.Module, groups: Sequence[Latents]) -> Tensor | None:
        """With the same random numbers at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.divergence.penalty(critic, *groups)

    def losses(self, high: Scores, low: Scores) -> dict[str, Tensor]:
        """Every scalar of the game, by the method that gives it; `high` stands for the anchor, `low` for the policy."""
        return {
            f"{self.name}.critic_loss": self.divergence.critic_loss(high, low),
            f"{self.name}.estimate": self.divergence.estimate(high, low),
            **{
                f"{self.name}.policy_loss in form {form}": self.divergence.policy_loss(low, high, form)
                for form in self.divergence.forms
            },
        }

    def random_scores(self, seed: int, dtype: torch.dtype = torch.float64, level: float = 0.0) -> Scores:
        """Four valid rows and one that is not, with a baseline where the divergence declares one."""
        generator = torch.Generator().manual_seed(seed)
        values = (torch.randn(NUM_ROWS, generator=generator, dtype=torch.float64) + level).to(dtype).requires_grad_()
        mean = (torch.randn((), generator=generator, dtype=torch.float64) + level).to(dtype)
        valid = torch.arange(NUM_ROWS) < NUM_ROWS - 1
        return Scores(values, valid, mean if self.divergence.baseline == "group_mean" else None)


class _SmallCritic(nn.Module):
    """Two layers on the mean latent; smooth, so that a penalty can be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(LATENT_DIM, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        sums = states.masked_fill(~mask[..., None], 0.0).sum(1)
        scores: Tensor = self.head(self.body(sums / mask.sum(1, keepdim=True).clamp(min=1)).tanh())
        return scores[:, 0].masked_fill(~mask.any(1), 0.0)


def _small_critic(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _SmallCritic().to(dtype)


def _constant(value: float) -> Scores:
    """Four valid rows of one score, which is their mean too."""
    values = torch.full((4,), value, dtype=torch.float64, requires_grad=True)
    return Scores(values, torch.ones(4, dtype=torch.bool), values.detach().mean())


def _rows(scores: Scores, index: Tensor) -> Scores:
    return Scores(scores.values[index], scores.valid[index], scores.mean)
