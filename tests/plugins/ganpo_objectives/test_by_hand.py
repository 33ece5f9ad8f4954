"""Losses away from the start, with the arithmetic written out, and what they log beside it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ganpo_objectives.differences import changed_tokens
from objective_samples import from_ratios, objective, one_token
from torch import Tensor

from ganpo_core import ConfigError, PairLogps, TokenLogps


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def ragged(chosen: list[float], rejected: list[float], **statistics: tuple[list[float], list[float]]) -> PairLogps:
    """One pair of responses with these token log-probabilities and statistics."""

    def side(logps: list[float], which: int) -> TokenLogps:
        values = torch.tensor([logps], dtype=torch.float64, requires_grad=True)
        own = {name: torch.tensor([pair[which]], dtype=torch.float64) for name, pair in statistics.items()}
        return TokenLogps(values, torch.ones_like(values, dtype=torch.bool), own)

    return PairLogps(side(chosen, 0), side(rejected, 1))


NOTHING = ragged([0.0, 0.0], [0.0, 0.0, 0.0])
"""A reference that gives every token probability 1."""


def of_ratios(name: str, chosen: float, rejected: float, **options: Any) -> float:
    return objective(name, **options).loss(*from_ratios([chosen], [rejected])).per_pair.item()


def test_wpo_weighs_a_pair_by_how_likely_the_policy_is_to_write_it() -> None:
    """Means: chosen -1 - (-0.5) = -0.5, rejected -2 - (-1) = -1; weight e^-1.5. margin 0.1 (-2 + 6) = 0.4.

    With log sum p^2 of -3 everywhere the weight is e^(2 + 1) = 20.1, which is cut off at 1.
    """
    logps = [-1.5, -0.5], [-3.0, -1.0, -2.0]
    policy = ragged(*logps, log_sum_sq_probs=([-0.25, -0.75], [-1.0, -1.0, -1.0]))
    found = objective("wpo", beta=0.1).loss(policy, NOTHING)
    assert found.per_pair.item() == pytest.approx(math.exp(-1.5) * softplus(-0.4))
    assert found.metrics["weight"].item() == pytest.approx(math.exp(-1.5))
    assert found.metrics["clamped"].item() == 0
    likely = ragged(*logps, log_sum_sq_probs=([-3.0] * 2, [-3.0] * 3))
    cut = objective("wpo", beta=0.1).loss(likely, NOTHING)
    assert cut.per_pair.item() == pytest.approx(softplus(-0.4)) and cut.metrics["clamped"].item() == 1
    whole = objective("wpo", beta=0.1, clamp=None).loss(likely, NOTHING)
    assert whole.per_pair.item() == pytest.approx(math.exp(3) * softplus(-0.4)) and "clamped" not in whole.metrics
    # The weight is a constant: the slope is that of DPO times it.
    (slope,) = torch.autograd.grad(found.per_pair.sum(), [policy.chosen.logps])
    assert slope.tolist() == [pytest.approx([-0.1 * math.exp(-1.5) / (1 + math.exp(0.4))] * 2)]


def test_tdpo_pays_for_the_divergence_along_the_responses() -> None:
    """rho = -2 + 6 = 4. K_chosen = 0.3, K_rejected = 0.9: margins 0.1 (4 - 0.6) and 0.1 (4 - 0.5 * 0.6)."""
    kl = [torch.tensor([values], dtype=torch.float64, requires_grad=True) for values in ([0.1, 0.2], [0.3, 0.3, 0.3])]
    bare = ragged([-1.5, -0.5], [-3.0, -1.0, -2.0])
    policy = PairLogps(*(
        TokenLogps(side.logps, side.mask, {"reference_kl": own})
        for side, own in zip((bare.chosen, bare.rejected), kl, strict=True)
    ))
    first = objective("tdpo1").loss(policy, NOTHING)
    assert first.per_pair.item() == pytest.approx(softplus(-0.34))
    assert (first.metrics["kl_chosen"].item(), first.metrics["kl_rejected"].item()) == (pytest.approx(0.3), pytest.approx(0.9))
    slopes = torch.autograd.grad(first.per_pair.sum(), kl)
    rate = 0.1 / (1 + math.exp(0.34))  # d loss / d margin is -sigma(-margin); the margin falls with K_rejected
    assert [slope[0, 0].item() for slope in slopes] == [pytest.approx(-rate), pytest.approx(rate)]
    second = objective("tdpo2").loss(policy, NOTHING).per_pair
    assert second.item() == pytest.approx(softplus(-0.37))
    stopped, moved = torch.autograd.grad(second.sum(), kl, allow_unused=True)
    assert stopped is None and moved is not None
    assert moved[0, 0].item() == pytest.approx(0.05 / (1 + math.exp(0.37)))


def test_mallows_weighs_both_responses_alike_whatever_their_lengths() -> None:
    """Entropies (0.1 + 0.3) / 2 = 0.2 and (0.6 + 0.6 + 0.6) / 3 = 0.6, together 0.4; phi = -0.5 log 0.4 = 0.458."""
    reference = ragged([0.0, 0.0], [0.0, 0.0, 0.0], normalized_entropy=([0.1, 0.3], [0.6, 0.6, 0.6]))
    policy = ragged([-1.5, -0.5], [-3.0, -1.0, -2.0])
    found = objective("mallows_dpo", beta=0.1, dispersion=0.5).loss(policy, reference)
    phi = -0.5 * math.log(0.4)
    assert found.metrics["dispersion"].item() == pytest.approx(phi)
    assert found.per_pair.item() == pytest.approx(softplus(-0.1 * phi * 4))
    squared = objective("mallows_dpo", beta=0.1, dispersion=0.5, link_function="squared").loss(policy, reference)
    assert squared.per_pair.item() == pytest.approx((phi * 4 - 5) ** 2)


def with_ids(pairs: PairLogps, chosen: list[int], rejected: list[int]) -> PairLogps:
    sides = ((pairs.chosen, chosen), (pairs.rejected, rejected))
    return PairLogps(*(TokenLogps(side.logps, side.mask, {}, torch.tensor([ids])) for side, ids in sides))


def test_bmc_weighs_the_tokens_in_which_the_responses_differ() -> None:
    """Common subsequence: 7. Chosen (7, 8), rejected (5, 7, 6). Probabilities 1/2 and 1/4 of the policy's changed ones.

    chosen: -1 - 3 log 2 (weight 1 + 1/p = 3, p = 1/2); rejected: 5 has p = 1/4, 1 + min(4, 2) = 3; 6 has p = 1/2, 3.
    """
    half, quarter = -math.log(2), -math.log(4)
    policy = with_ids(ragged([-1.0, half], [quarter, -2.0, half]), [7, 8], [5, 7, 6])
    reference = with_ids(ragged([-0.5, -1.0], [-1.0, -1.0, -1.0]), [7, 8], [5, 7, 6])
    chosen = (-1.0 + 0.5) + 3 * (half + 1.0)
    rejected = 3 * (quarter + 1.0) + (-2.0 + 1.0) + 3 * (half + 1.0)
    found = objective("bmc", beta=0.1).loss(policy, reference).per_pair
    assert found.item() == pytest.approx(softplus(-0.1 * (chosen - rejected)))
    # By its own confidence the reference's changed tokens, all of probability 1/e, weigh 1 + min(e, 2) = 3 as well.
    assert objective("bmc", beta=0.1, weights_from="own").loss(policy, reference).per_pair.item() == pytest.approx(
        found.item()
    )
    # delta 2.5: 1 / p = 2 stays, 4 is cut off at 2.5, and e of the reference too.
    own = objective("bmc", beta=0.1, delta=2.5, weights_from="own").loss(policy, reference).per_pair.item()
    chosen = -1.0 + 3 * half - (-0.5 - 3.5)
    rejected = 3.5 * quarter - 2.0 + 3 * half - (-3.5 - 1.0 - 3.5)
    assert own == pytest.approx(softplus(-0.1 * (chosen - rejected)))
    # A stop word never counts as a difference.
    without = objective("bmc", beta=0.1, ignored_tokens=(8, 5, 6)).loss(policy, reference).per_pair.item()
    assert without == pytest.approx(objective("dpo").loss(policy, reference).per_pair.item())


@pytest.mark.parametrize(
    ("left", "right", "changed"),
    [
        ([1, 2, 3], [1, 2, 3], ([0, 0, 0], [0, 0, 0])),
        ([1, 2, 3], [4, 5, 6], ([1, 1, 1], [1, 1, 1])),
        ([1, 2, 3, 4], [2, 4, 9], ([1, 0, 1, 0], [0, 0, 1])),
        ([1, 1, 2], [1, 2, 2], ([1, 0, 0], [0, 0, 1])),  # which of two equal ones is kept does not matter
    ],
)
def test_changed_tokens_are_those_outside_of_the_longest_common_subsequence(
    left: list[int], right: list[int], changed: tuple[list[int], list[int]]
) -> None:
    def row(values: list[int]) -> Tensor:
        return torch.tensor([values])

    found = changed_tokens(row(left), torch.ones(1, len(left)).bool(), row(right), torch.ones(1, len(right)).bool())
    assert [int(side.sum()) for side in found] == [sum(side) for side in changed]
    if left != [1, 1, 2]:
        assert [side[0].int().tolist() for side in found] == list(changed)


def test_chi_po_by_hand_with_and_without_a_clip() -> None:
    """phi(z) = z + 2 e^z: 1 + 2e = 6.4366, -1 + 2/e = -0.2642; margin 0.5 * 6.7008, and 2 once it is clipped at 2 R."""
    margin = 0.5 * ((1 + 2 * math.e) - (-1 + 2 / math.e))
    assert of_ratios("chi_po", 1.0, -1.0, beta=0.5, gamma=2.0) == pytest.approx(softplus(-margin))
    assert of_ratios("chi_po", 1.0, -1.0, beta=0.5, gamma=2.0, clip=1.0) == pytest.approx(softplus(-2.0))


def test_discopop_by_hand() -> None:
    """m = 0.1 * 2 = 0.2, tau 0.1: w = sigma(2)."""
    share = 1 / (1 + math.exp(-2.0))
    expected = (1 - share) * softplus(-0.2) + share * math.exp(-0.2)
    assert of_ratios("discopop", 1.5, -0.5, beta=0.1, tau=0.1) == pytest.approx(expected)


def test_alpha_po_by_hand() -> None:
    """Means -1 and -2, alpha 0.5: rewards (1 - e^0.5) / 0.5 = -1.2974 and (1 - e) / 0.5 = -3.4366; beta 2, gamma 1."""
    policy = ragged([-1.5, -0.5], [-3.0, -1.0, -2.0])
    found = objective("alpha_po", beta=2.0, gamma_ratio=0.5, alpha=0.5).loss(policy, None)
    chosen, rejected = (1 - math.exp(0.5)) / 0.5, (1 - math.e) / 0.5
    assert found.per_pair.item() == pytest.approx(softplus(-(2 * (chosen - rejected) - 1)))
    assert (found.chosen_reward.item(), found.rejected_reward.item()) == (
        pytest.approx(2 * chosen), pytest.approx(2 * rejected),
    )


@pytest.mark.parametrize(
    ("regularizer", "penalty"),
    [
        ("reverse_kl", 4.0 + 9.0),
        ("forward_kl", math.exp(-2) + math.exp(3)),
        ("chi_squared", math.exp(2) + math.exp(-3)),
        ("forward_and_reverse", math.exp(-2) + math.exp(3) + 0.1 * 13),
    ],
)
def test_rspo_by_hand(regularizer: str, penalty: float) -> None:
    """z = 2 and -3, beta 0.1: SPPO's half of (2 - 5)^2 + (-3 + 5)^2 = 13; lam 0.7."""
    found = of_ratios("rspo", 2.0, -3.0, beta=0.1, lam=0.7, regularizer=regularizer)
    assert found == pytest.approx(6.5 + 0.7 * penalty)


def test_rspo_cuts_exponentials_off_and_says_so() -> None:
    """z = -12: e^12 is cut off at e^10, and pushes no more; z = 0: e^0."""
    policy, reference = from_ratios(torch.tensor([-12.0]), torch.tensor([0.0]))
    found = objective("rspo", beta=0.1, lam=1.0).loss(policy, reference)
    assert found.per_pair.item() == pytest.approx(0.5 * (17**2 + 5**2) + math.exp(10) + 1)
    assert found.metrics["clamped"].item() == 0.5
    with pytest.raises(ConfigError, match="largest_exponent: must be less than or equal to 20"):
        objective("rspo", largest_exponent=30.0)


def test_cal_dpo_by_hand() -> None:
    """z = 2 and -1, beta 0.25, target 2: softplus(-3) + 0.5 ((2 - 2)^2 + (-1 + 2)^2)."""
    assert of_ratios("cal_dpo", 2.0, -1.0, beta=0.25) == pytest.approx(softplus(-3.0) + 0.5)


def test_dpo_positive_by_hand() -> None:
    """z = -0.5 and -2: margin 0.3 (1.5 - 5 * 0.5) = -0.3."""
    assert of_ratios("dpo_positive", -0.5, -2.0, lam=5.0) == pytest.approx(softplus(0.3))


def test_r_dpo_lets_a_longer_chosen_response_learn_less() -> None:
    """rho = -2 + 6 = 4, lengths 2 and 3: margin 0.1 * 4 + 0.2 * (2 - 3) = 0.2."""
    policy = ragged([-1.5, -0.5], [-3.0, -1.0, -2.0])
    assert objective("r_dpo", alpha=0.2).loss(policy, NOTHING).per_pair.item() == pytest.approx(softplus(-0.2))


def test_ld_dpo_by_hand() -> None:
    """Lengths 2 and 3: the rejected response's third token counts 0.25 under both models; rho = -2 - (-4 - 0.25)."""
    policy, reference = ragged([-1.5, -0.5], [-3.0, -1.0, -2.0]), ragged([0.0, 0.0], [0.0, 0.0, -1.0])
    found = objective("ld_dpo", alpha=0.25).loss(policy, reference).per_pair.item()
    assert found == pytest.approx(softplus(-0.1 * (-2.0 + 4.0 + 0.25)))


@pytest.mark.parametrize(("divergence", "chosen", "rejected", "share"), [
    ("forward_kl", -25.0, 0.0, 0.5), ("forward_kl", -25.0, -21.0, 1.0), ("forward_kl", 25.0, 0.0, 0.0),
    ("alpha", -30.0, -50.0, 0.5), ("reverse_kl", -1e4, 1e4, None), ("js", -1e4, 1e4, None),
])
def test_f_dpo_logs_how_often_its_exponentials_are_cut_off(
    divergence: str, chosen: float, rejected: float, share: float | None
) -> None:
    """e^-z is cut off below z = -20; with alpha 0.5 below z = -40."""
    metrics = objective("f_dpo", divergence=divergence).loss(*from_ratios([chosen], [rejected])).metrics
    assert metrics == {} if share is None else metrics["clamped"].item() == share


def test_exponential_costs_log_it_too() -> None:
    """beta 1: e^-m is cut off below a margin of -30."""
    made = objective("gpo", surrogate="exponential", beta=1.0)
    assert made.loss(*from_ratios([0.0, -31.0], [0.0, 0.0])).metrics["clamped"].tolist() == [0.0, 1.0]
    assert objective("gpo").loss(*from_ratios([0.0], [0.0])).metrics == {}
    assert objective("chi_po").loss(*from_ratios([21.0], [0.0])).metrics["clamped"].item() == 0.5


def test_likelihoods_odds_and_baselines_are_logged() -> None:
    policy = ragged([-1.5, -0.5], [-3.0, -1.0, -2.0])
    orpo = objective("orpo").loss(policy, None).metrics
    assert orpo["nll"].item() == pytest.approx(1.0)
    assert orpo["log_odds_ratio"].item() == pytest.approx(1.313262, abs=1e-6)  # as in test_start.py
    assert objective("cpo", sft_norm="sum").loss(policy, None).metrics["nll"].item() == pytest.approx(2.0)
    known = PairLogps(one_token([1.0]), one_token([0.0]), batch={"mismatched": torch.tensor(3.0)})
    kto = objective("kto", beta=0.5).loss(known, from_ratios([0.0], [0.0])[1])
    assert kto.metrics["baseline"].tolist() == [1.5]
    assert kto.per_pair.item() == pytest.approx(1 / (1 + math.exp(-1.0)) + 1 / (1 + math.exp(1.5)))


def test_a_weighted_sum_logs_each_of_its_losses() -> None:
    parts = [{"use": "dpo", "weight": 0.5}, {"use": "f_dpo", "divergence": "forward_kl"}]
    found = objective("weighted", objectives=parts).loss(*from_ratios([-25.0], [0.0]))
    assert found.metrics["0.dpo"].item() == pytest.approx(softplus(2.5))
    assert found.metrics["1.f_dpo/clamped"].item() == 0.5
    assert found.per_pair.item() == pytest.approx(0.5 * softplus(2.5) + found.metrics["1.f_dpo"].item())


def test_parts_of_a_weighted_sum_are_checked_as_if_they_stood_alone() -> None:
    whole = objective("weighted", objectives=[{"use": "fictitious_spin", "history": 3}, {"use": "weighted"}])
    assert whole.needs_reference
    wrong = [{"use": "sigmoid"}, {"use": "dpo", "beta": -1}, {"use": "fictitious_spin", "history": 1.5}]
    with pytest.raises(ConfigError) as caught:
        objective("weighted", objectives=wrong)
    first, second, third = caught.value.problems
    assert first.startswith("objective.objectives.0.use: objective 'sigmoid' is not known. TRL calls 'dpo' so")
    assert second == "objective.objectives.1.beta: must be greater than 0, got -1"
    assert third.startswith("objective.objectives.2.history: expected a whole number, got 1.5")
    for weight in (-1, math.inf, "1", True):
        with pytest.raises(ConfigError, match=r"objectives\.0\.weight must be a number of at least 0"):
            objective("weighted", objectives=[{"use": "dpo", "weight": weight}])


def test_the_odds_ratio_has_no_beta() -> None:
    """TRL calls the weight of the odds ratio beta; taking it for another number silently would be worse than no."""
    with pytest.raises(ConfigError, match=r"objective\.beta: unknown option"):
        objective("orpo", beta=0.1)
