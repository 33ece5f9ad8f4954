"""What must be equal to what, exactly: the identities by which the losses are built from the same stages.

     1  one loss, several names                  test_two_names_of_one_loss, test_squared_gpo_is_ipo_on_another_scale
     2  unbiasedness of `robust`                 test_robust_loss_is_unbiased_under_wrong_labels
     3  minima of `cdpo` and `exo`               test_smoothed_losses_are_at_rest_at_the_log_odds
     4  optima on a bandit                       test_optima.py
     5  second order and first gradient of GPO   test_gpo_to_second_order, test_gpo_divided_by_its_slope_starts_alike
     6  f-DPO's alpha                            test_two_names_of_one_loss; TRL's coefficient: test_trl_parity.py
     7  limits that are DPO                      test_two_names_of_one_loss, test_length_terms_…, test_weights_of_one_…,
                                                 test_dpo_positive_is_dpo_where_…, test_self_play_uses_past_opponents
     8  APO, KTO and SPPO                        test_two_names_of_one_loss, test_sppo_is_least_at_a_margin_of_one_over_beta
     9  SimPO, CPO and DPO                       test_simpo_without_margin_…, test_cpo_is_dpo_against_a_reference_of_…
    10  AOT and its batch                        test_aot_of_one_pair_…, test_aot_of_two_processes_…
    11  invariance to a constant                 test_pairwise_losses_do_not_see_…, test_losses_of_single_responses_do
    12  opposite gradients, right at the start   test_gradients_of_unnormalized_…; test_start.py
    13  finite at 1e4 nats                       test_start.py
    14  TRL's own values                         test_trl_parity.py
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_samples import drawn, from_ratios, objective, one_token, per_pair
from torch import Tensor

from ganpo_core import Objective, PairLogps, TokenLogps

SURROGATES = ("logistic", "exponential", "hinge", "squared", "truncated_quadratic")
RATIOS = torch.linspace(-40, 40, 33, dtype=torch.float64)


def on_batch(name: str, **options: Any) -> Tensor:
    return per_pair(objective(name, **options), drawn(2), drawn(3))


def of_rho(made: Objective, rho: Tensor) -> Tensor:
    """The loss of pairs whose chosen log-ratio is rho and whose rejected one is 0."""
    return per_pair(made, *from_ratios(rho, torch.zeros_like(rho)))


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("robust", {"label_smoothing": 0.0}), ("dpo", {})),
        (("cdpo", {"label_smoothing": 0.0}), ("dpo", {})),
        (("gpo", {"surrogate": "logistic"}), ("dpo", {})),
        (("gpo", {"surrogate": "hinge"}), ("hinge", {})),
        (("f_dpo", {"divergence": "reverse_kl"}), ("dpo", {})),
        (("f_dpo", {"divergence": "alpha", "alpha": 0.0}), ("dpo", {})),
        (("f_dpo", {"divergence": "alpha", "alpha": 1.0}), ("f_dpo", {"divergence": "forward_kl"})),
        (("chi_po", {"gamma": 0.0}), ("dpo", {})),
        (("r_dpo", {"alpha": 0.0}), ("dpo", {})),
        (("ld_dpo", {"alpha": 1.0}), ("dpo", {})),
        (("dpo_positive", {"beta": 0.1, "lam": 0.0}), ("dpo", {})),
        (("alpha_spin", {"alpha": 0.0}), ("spin", {})),
        (("alpha_spin", {"alpha": 1.0}), ("dpo", {})),
        (("fictitious_spin", {}), ("spin", {})),
        (("tdpo2", {"alpha": 0.0}), ("dpo", {})),
        (("rspo", {"lam": 0.0}), ("sppo", {"scale": 0.5})),
        (("apo_zero", {}), ("kto", {})),
        (("alpha_po", {"alpha": 0.0}), ("simpo", {"beta": 2.5, "gamma_ratio": 0.04})),
        (("rpo", {"beta": 0.1, "eta": 0.0}), ("dpo", {})),
        (("weighted", {"objectives": [{"use": "ipo"}]}), ("ipo", {})),
    ],
)
def test_two_names_of_one_loss(left: tuple[str, dict[str, Any]], right: tuple[str, dict[str, Any]]) -> None:
    same(on_batch(left[0], **left[1]), on_batch(right[0], **right[1]))


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0])
def test_squared_gpo_is_ipo_on_another_scale(tau: float) -> None:
    """(1 - 2 tau rho)^2 = 4 tau^2 (rho - 1 / (2 tau))^2."""
    same(
        on_batch("gpo", surrogate="squared", beta=2 * tau),
        4 * tau**2 * on_batch("ipo", reduction="sum", beta=tau),
    )


def test_robust_loss_is_unbiased_under_wrong_labels() -> None:
    robust = objective("robust", label_smoothing=0.3, beta=0.7)
    same(0.7 * of_rho(robust, RATIOS) + 0.3 * of_rho(robust, -RATIOS), of_rho(objective("dpo", beta=0.7), RATIOS))


@pytest.mark.parametrize("name", ["cdpo", "exo"])
def test_smoothed_losses_are_at_rest_at_the_log_odds(name: str) -> None:
    rho = torch.tensor([math.log(9) / 0.5], dtype=torch.float64, requires_grad=True)
    value = of_rho(objective(name, beta=0.5, label_smoothing=0.1), rho)
    (slope,) = torch.autograd.grad(value.sum(), rho)
    assert slope.item() == pytest.approx(0, abs=1e-12)
    if name == "exo":
        assert value.item() == pytest.approx(0, abs=1e-12)
        assert bool((of_rho(objective(name, label_smoothing=0.1), RATIOS) >= 0).all())


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gpo_to_second_order(surrogate: str) -> None:
    """mean f(u) = f(0) + f'(0) mean u + f''(0) / 2 mean u^2 + O(u^3)."""
    made = objective("gpo", surrogate=surrogate, beta=1.0)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = of_rho(made, zero).sum()
    (first,) = torch.autograd.grad(value, zero, create_graph=True)
    second = torch.autograd.grad(first.sum(), zero)[0] if first.requires_grad else torch.zeros(1)
    u = 1e-2 * torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = value + first * u.mean() + second / 2 * u.square().mean()
    assert of_rho(made, u).mean().item() == pytest.approx(expected.item(), abs=1e-6)
    assert first.item() == {"logistic": -0.5, "squared": -2.0, "truncated_quadratic": -2.0}.get(surrogate, -1.0)


def test_gpo_divided_by_its_slope_starts_alike() -> None:
    """f(beta rho) / |f'(0)| has the slope -beta at rho = 0, whatever f is, in every log-probability of every token."""
    policy, at_start = drawn(2), drawn(2)
    slopes = {"logistic": 0.5, "squared": 2.0, "truncated_quadratic": 2.0}
    for surrogate in SURROGATES:
        value = per_pair(objective("gpo", surrogate=surrogate, beta=0.3), policy, at_start) / slopes.get(surrogate, 1.0)
        chosen, rejected = torch.autograd.grad(value.sum(), [policy.chosen.logps, policy.rejected.logps])
        same(chosen, -0.3 * policy.chosen.mask.double())
        same(rejected, 0.3 * policy.rejected.mask.double())


def test_dpo_positive_is_dpo_where_the_chosen_response_gained() -> None:
    gained = from_ratios(RATIOS.abs(), RATIOS)
    same(per_pair(objective("dpo_positive", beta=0.1), *gained), per_pair(objective("dpo"), *gained))


def test_cpo_is_dpo_against_a_reference_of_probability_one() -> None:
    policy = drawn(2)
    certain = PairLogps(*(
        TokenLogps(torch.zeros_like(side.logps), side.mask) for side in (policy.chosen, policy.rejected)
    ))
    same(per_pair(objective("cpo", alpha=0.0), policy, certain), per_pair(objective("dpo"), policy, certain))


def test_length_terms_vanish_for_responses_of_one_length() -> None:
    policy, reference = from_ratios(RATIOS, -0.3 * RATIOS)
    for name, options in (("r_dpo", {"alpha": 0.7}), ("ld_dpo", {"alpha": 0.2}), ("dpo_norm", {"beta": 0.1})):
        same(per_pair(objective(name, **options), policy, reference), per_pair(objective("dpo"), policy, reference))


def test_weights_of_one_are_dpo() -> None:
    """WPO where log pi(y_t) = log sum p^2; BMC on responses of the same ids; Mallows where -phi* log H = 1."""
    policy, reference = drawn(2), drawn(3)
    dpo = per_pair(objective("dpo"), policy, reference)

    def with_statistic(pairs: PairLogps, name: str, values: list[Tensor]) -> PairLogps:
        sides = [
            replace(side, statistics={name: value})
            for side, value in zip((pairs.chosen, pairs.rejected), values, strict=True)
        ]
        return PairLogps(*sides)

    certain = with_statistic(policy, "log_sum_sq_probs", [policy.chosen.logps, policy.rejected.logps])
    same(per_pair(objective("wpo", beta=0.1), certain, reference), dpo)
    entropy = torch.full_like(reference.chosen.logps, math.exp(-1 / 0.29))
    scattered = with_statistic(reference, "normalized_entropy", [entropy, entropy])
    same(per_pair(objective("mallows_dpo"), policy, scattered), dpo)
    same(
        per_pair(objective("mallows_dpo", link_function="squared"), policy, scattered),
        per_pair(objective("ipo", reduction="sum"), policy, reference),
    )
    longest = torch.ones_like(policy.chosen.mask)
    ids = torch.arange(longest.shape[1]).expand(longest.shape)

    def whole(pairs: PairLogps) -> PairLogps:
        return PairLogps(
            TokenLogps(pairs.chosen.logps, longest, {}, ids), TokenLogps(pairs.rejected.logps, longest, {}, ids)
        )

    same(
        per_pair(objective("bmc", beta=0.1), whole(policy), whole(reference)),
        per_pair(objective("dpo"), whole(policy), whole(reference)),
    )


def test_self_play_uses_past_opponents() -> None:
    policy, base, first, second = drawn(2), drawn(3), drawn(4), drawn(5)
    reference = replace(base, opponents=(first, second))
    same(per_pair(objective("spin"), policy, reference), per_pair(objective("dpo"), policy, second))
    same(per_pair(objective("alpha_spin", alpha=0.0), policy, reference), per_pair(objective("dpo"), policy, second))
    same(per_pair(objective("alpha_spin", alpha=1.0), policy, reference), per_pair(objective("dpo"), policy, base))
    same(
        per_pair(objective("fictitious_spin", history=1), policy, reference),
        per_pair(objective("dpo"), policy, second),
    )
    mixture = [
        torch.stack([getattr(o, side).total for o in (first, second)]).logsumexp(0) - math.log(2)
        for side in ("chosen", "rejected")
    ]
    rho = policy.chosen.total - policy.rejected.total - (mixture[0] - mixture[1])
    same(
        per_pair(objective("fictitious_spin"), policy, reference),
        torch.nn.functional.softplus(-0.1 * rho),
    )
    reverse = per_pair(objective("rspo", lam=1.0, regularizer="reverse_kl"), policy, reference)
    ratios = [policy.chosen.total - base.chosen.total, policy.rejected.total - base.rejected.total]
    same(reverse, per_pair(objective("sppo", scale=0.5), policy, second) + ratios[0] ** 2 + ratios[1] ** 2)


def test_sppo_is_least_at_a_margin_of_one_over_beta() -> None:
    """z_chosen = 1 / (2 beta), z_rejected = -1 / (2 beta): the loss is 0."""
    found = per_pair(objective("sppo", beta=0.01), *from_ratios([50.0], [-50.0]))
    assert found.item() == pytest.approx(0, abs=1e-9)
    policy, reference = drawn(2), drawn(3)
    same(
        per_pair(objective("sppo"), policy, reference), 2 * per_pair(objective("sppo", scale=0.5), policy, reference)
    )


def test_simpo_without_margin_is_cpo_at_beta_over_the_length() -> None:
    values = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(6, 4, dtype=torch.bool)
    policy = PairLogps(TokenLogps(values, mask), TokenLogps(values.flip(0), mask))
    simpo = per_pair(objective("simpo", beta=2.0, gamma_ratio=0.0), policy, policy)
    same(simpo, per_pair(objective("cpo", beta=0.5, alpha=0.0), policy, policy))
    nothing = PairLogps(TokenLogps(torch.zeros_like(values), mask), TokenLogps(torch.zeros_like(values), mask))
    same(simpo, per_pair(objective("dpo", beta=0.5), policy, nothing))


def test_aot_of_one_pair_is_dpo_and_of_halves_is_another_loss() -> None:
    policy, reference = drawn(2), drawn(3)

    def rows(pairs: PairLogps, index: slice | Tensor) -> PairLogps:
        sides = [TokenLogps(side.logps[index], side.mask[index]) for side in (pairs.chosen, pairs.rejected)]
        return PairLogps(*sides)

    for name in ("aot", "aot_unpaired"):
        made = objective(name)
        alone = [per_pair(made, rows(policy, slice(i, i + 1)), rows(reference, slice(i, i + 1))) for i in range(7)]
        same(torch.cat(alone), per_pair(objective("dpo"), policy, reference))
        halves = [per_pair(made, rows(policy, part), rows(reference, part)) for part in (slice(3), slice(3, None))]
        assert not torch.allclose(torch.cat(halves).mean(), per_pair(made, policy, reference).mean())
    order = torch.tensor([4, 2, 0, 6, 1, 3, 5])
    moved, anchor = rows(policy, order), rows(reference, order)
    shuffled = PairLogps(rows(policy, slice(None)).chosen, moved.rejected)
    beside = PairLogps(rows(reference, slice(None)).chosen, anchor.rejected)
    unpaired = objective("aot_unpaired")
    same(per_pair(unpaired, shuffled, beside).mean(), per_pair(unpaired, policy, reference).mean())


def test_aot_of_two_processes_has_the_gradient_of_one() -> None:
    """Each process gets all values, its own first; together they give the gradient of the whole batch."""
    policy, reference = drawn(2, pairs=8), drawn(3, pairs=8)
    leaves = [policy.chosen.logps, policy.rejected.logps]
    for name in ("aot", "aot_unpaired"):
        made = objective(name)
        wanted = torch.autograd.grad(per_pair(made, policy, reference).sum(), leaves)
        values = made.batch_values(policy, reference)
        total = policy.chosen.logps.new_zeros(())
        for own in (slice(4), slice(4, None)):
            other = slice(4, None) if own.start is None else slice(4)
            batch = {key: torch.cat([value[own], value[other]]).detach() for key, value in values.items()}
            sides = [
                [TokenLogps(side.logps[own], side.mask[own]) for side in (pairs.chosen, pairs.rejected)]
                for pairs in (policy, reference)
            ]
            total = total + made.loss(PairLogps(*sides[0], batch=batch), PairLogps(*sides[1])).per_pair.sum()
        same(total, per_pair(made, policy, reference).sum())
        for found, expected in zip(torch.autograd.grad(total, leaves), wanted, strict=True):
            same(found, expected)


PAIRWISE = ("dpo", "cdpo", "robust", "hinge", "gpo", "exo", "discopop", "chi_po", "f_dpo", "r_dpo", "aot", "spin")
OF_ONE_TOKEN = ("ipo", "dpo_norm", "ld_dpo", "alpha_spin", "fictitious_spin")
"""Pairwise too, where responses have one length."""


@pytest.mark.parametrize("name", [*PAIRWISE, *OF_ONE_TOKEN, "tdpo1", "tdpo2", "wpo", "mallows_dpo"])
def test_pairwise_losses_do_not_see_a_constant_of_the_prompt(name: str) -> None:
    """A constant added to both responses of a prompt cancels; links that are not linear are left out."""
    made = objective(name, gamma=0.0) if name == "chi_po" else objective(name)
    policy, reference = from_ratios(RATIOS, 0.5 - 0.2 * RATIOS)
    statistics = {key: torch.full((33, 1), 0.4) for key in ("log_sum_sq_probs", "normalized_entropy", "reference_kl")}

    def moved(pairs: PairLogps, by: float) -> PairLogps:
        return PairLogps(
            TokenLogps(pairs.chosen.logps + by, pairs.chosen.mask, statistics),
            TokenLogps(pairs.rejected.logps + by, pairs.rejected.mask, statistics),
        )

    here = per_pair(made, moved(policy, 0.0), moved(reference, 0.0))
    same(per_pair(made, moved(policy, 0.0), moved(reference, 2.5)), here)
    if name != "wpo":  # its weight is a property of the policy alone
        same(per_pair(made, moved(policy, -2.5), moved(reference, 0.0)), here)


@pytest.mark.parametrize("name", ["kto", "bco", "nca", "apo_zero", "apo_down", "sppo", "cal_dpo", "rspo"])
def test_losses_of_single_responses_do(name: str) -> None:
    policy, reference = from_ratios(RATIOS, 0.5 - 0.2 * RATIOS)
    moved = PairLogps(one_token(policy.chosen.total + 2.5), one_token(policy.rejected.total + 2.5))
    assert not torch.allclose(
        per_pair(objective(name), moved, reference), per_pair(objective(name), policy, reference)
    )


@pytest.mark.parametrize("name", [*PAIRWISE, *OF_ONE_TOKEN])
def test_gradients_of_unnormalized_pairwise_losses_are_opposite(name: str) -> None:
    made = objective(name, gamma=0.0) if name == "chi_po" else objective(name)
    chosen, rejected = RATIOS.clone().requires_grad_(), (0.3 - 0.2 * RATIOS).requires_grad_()
    value = per_pair(made, *from_ratios(chosen, rejected))
    left, right = torch.autograd.grad(value.sum(), [chosen, rejected])
    same(left, -right)
