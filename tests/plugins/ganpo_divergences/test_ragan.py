"""The relativistic average divergence by hand and in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from ganpo_divergences.ragan import RaGAN

from ganpo_core import Scores


def scores(*values: float, mean: float | None = None) -> Scores:
    """Valid rows; their own mean unless another is given."""
    tensor = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    baseline = tensor.detach().mean() if mean is None else torch.tensor(mean, dtype=torch.float64)
    return Scores(tensor, torch.ones(len(values), dtype=torch.bool), baseline)


def test_losses_and_estimate_by_hand() -> None:
    """softplus(-2) = 0.126928, softplus(0) = 0.693147, softplus(2) = 2.126928.

    High (2, 0) of mean 1 against low (-1, 1) of mean 0:
    E softplus(-(s_high - 0)) = (0.126928 + 0.693147) / 2 = 0.410038, E softplus(s_low - 1) = the same.
    """
    anchor, policy = scores(2.0, 0.0), scores(-1.0, 1.0)
    ragan = RaGAN()
    assert ragan.critic_loss(anchor, policy).item() == pytest.approx(0.820075, abs=1e-6)
    assert ragan.estimate(anchor, policy).item() == pytest.approx(2 * math.log(2) - 0.820075, abs=1e-6)
    assert ragan.policy_loss(policy, anchor, "minimax").item() == pytest.approx(-0.410038, abs=1e-6)
    assert ragan.policy_loss(policy, anchor, "non_saturating").item() == pytest.approx(1.410038, abs=1e-6)
    assert ragan.policy_loss(policy, anchor, "full").item() == pytest.approx(2.820075, abs=1e-6)


def test_rows_that_are_not_valid_are_left_out() -> None:
    values = torch.tensor([2.0, 0.0, 50.0], dtype=torch.float64)
    anchor = Scores(values, torch.tensor([True, True, False]), torch.tensor(1.0, dtype=torch.float64))
    assert RaGAN().critic_loss(anchor, scores(-1.0, 1.0)).item() == pytest.approx(0.820075, abs=1e-6)


def test_a_constant_critic_shows_nothing() -> None:
    equal = scores(0.4, 0.4, 0.4)
    assert RaGAN().critic_loss(equal, equal).item() == pytest.approx(2 * math.log(2))
    assert RaGAN().estimate(equal, equal).item() == pytest.approx(0.0, abs=1e-12)


def test_forms_agree_in_sign_and_minimax_never_stops_pushing() -> None:
    """Slopes -sigma(gap) and -sigma(-gap): equal at parity, of one sign everywhere; minimax is unbounded below."""
    ragan, anchor = RaGAN(), scores(0.0)
    for gap in (-6.0, -1.0, 0.0, 1.0, 6.0):
        policy = scores(gap)
        slopes = {
            form: torch.autograd.grad(ragan.policy_loss(policy, anchor, form), policy.values)[0].item()
            for form in ("minimax", "non_saturating")
        }
        assert slopes["minimax"] == pytest.approx(-1 / (1 + math.exp(-gap)))
        assert slopes["non_saturating"] == pytest.approx(-1 / (1 + math.exp(gap)))
    assert ragan.policy_loss(scores(1e4), anchor, "minimax").item() == pytest.approx(-1e4)
    assert ragan.policy_loss(scores(1e4), anchor, "non_saturating").item() == 0.0


def test_full_form_reaches_the_policy_through_its_mean() -> None:
    """Of one row at parity: -1/2 directly, -1/2 through m_policy."""
    ragan, anchor = RaGAN(), scores(0.0)
    values = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    loss = ragan.policy_loss(Scores(values, anchor.valid, values.mean()), anchor, "full")
    assert torch.autograd.grad(loss, values)[0].item() == pytest.approx(-1.0)


def test_a_fresh_critic_hears_nothing_from_the_policy_when_the_cross_term_weighs_one() -> None:
    """At equal scores the own term pushes a policy row by +1/2, the cross term by -1/2; anchors keep -1/2 and +1/2."""
    anchor, policy, cross = scores(0.0), scores(0.0), scores(0.0)
    loss = RaGAN().critic_loss(anchor, policy) + RaGAN().critic_loss(policy, cross)
    own, middle, other = torch.autograd.grad(loss, [anchor.values, policy.values, cross.values])
    assert (own.item(), middle.item(), other.item()) == (-0.5, 0.0, 0.5)


def quantiles(mean: float, count: int = 20_001) -> torch.Tensor:
    """Midpoint quantiles of N(mean, 1): equal weights integrate smooth functions against the density."""
    levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return mean + math.sqrt(2) * torch.erfinv(2 * levels - 1)


def linear_estimate(weight: float, shift: float) -> float:
    anchor, policy = weight * quantiles(shift), weight * quantiles(0.0)
    valid = torch.ones(len(anchor), dtype=torch.bool)
    return RaGAN().estimate(Scores(anchor, valid, anchor.mean()), Scores(policy, valid, policy.mean())).item()


@pytest.mark.parametrize(("shift", "best"), [(0.0, 0.0), (0.5, 0.2228), (1.0, 0.5726), (2.0, 1.0208), (4.0, 1.3281)])
def test_best_linear_critic_of_slope_one_on_a_shifted_normal(shift: float, best: float) -> None:
    found = max(linear_estimate(weight, shift) for weight in torch.linspace(0, 1, 41).tolist())
    assert found == pytest.approx(best, abs=3e-4)


def test_a_bad_critic_estimates_less_than_nothing() -> None:
    assert linear_estimate(1.0, 0.0) == pytest.approx(-0.2258, abs=3e-4)


@pytest.mark.parametrize(("anchors", "policies", "best"), [(3, 7, 0.48261), (1, 9, 1.17257)])
def test_best_critic_of_two_coins(anchors: int, policies: int, best: float) -> None:
    """Ten rows each, of which some show heads: Bernoulli 0.3 against 0.7, and 0.1 against 0.9."""

    def estimate(level: float) -> float:
        return (
            RaGAN()
            .estimate(
                scores(*[level] * anchors, *[0.0] * (10 - anchors)),
                scores(*[level] * policies, *[0.0] * (10 - policies)),
            )
            .item()
        )

    assert max(estimate(level) for level in torch.linspace(-8, 0, 801).tolist()) == pytest.approx(best, abs=1e-5)
