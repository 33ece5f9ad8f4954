"""Closed forms: what the best critic of N(0, 1) and N(d, 1) shows, what equal groups show, and what descent does.

Numbers come from quadrature of the exact densities, worked out apart from the code; the critic is trained and read on a
grid, so that no sample can overshoot the bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from ganpo_discriminators.mlp import MLP
from ganpo_divergences import ganpo_divergences
from ganpo_divergences.f_gan import FGAN
from ganpo_divergences.ragan import RaGAN
from ganpo_divergences.rpgan import RpGAN
from ganpo_divergences.wasserstein import Wasserstein
from torch import Tensor

from ganpo_core import Divergence, Latents, Scores, component
from ganpo_core.testing.closed_forms import WeightedScores, best_estimate

GRID = torch.linspace(-12, 16, 8001, dtype=torch.float64)
LOG_2 = math.log(2)

BEST = [
    ("jsd", {}, 0.25, 0.0078),
    ("jsd", {}, 1.0, 0.1114),
    ("jsd", {}, 2.0, 0.3368),
    ("jsd", {}, 4.0, 0.6327),
    ("hinge", {}, 1.0, 0.3829),
    ("hinge", {}, 2.0, math.erf(2 / (2 * math.sqrt(2)))),
    ("lsgan", {}, 1.0, 0.4081),
    ("f_gan", {"divergence": "kl"}, 1.0, 0.5),
    ("f_gan", {"divergence": "reverse_kl"}, 1.0, 0.5),
    ("f_gan", {"divergence": "pearson_chi2"}, 1.0, math.e - 1),
    ("f_gan", {"divergence": "squared_hellinger"}, 1.0, 2 * (1 - math.exp(-1 / 8))),
    ("f_gan", {"divergence": "js"}, 1.0, 0.222843),
]
"""(divergence, options, shift, its value between N(0, 1) and N(shift, 1))."""


def density(mean: float) -> Tensor:
    """Of N(mean, 1) at the points of the grid, adding up to 1."""
    values = torch.exp(-(GRID - mean).square() / 2)
    return values / values.sum()


def groups(critic: Tensor, shift: float, baselines: bool = False) -> tuple[Scores, Scores]:
    """A critic's values on the grid, as scores of N(shift, 1) and of N(0, 1)."""
    valid = torch.ones(len(GRID), dtype=torch.bool)
    weights = (density(shift), density(0.0))
    means = [(critic * weight).sum() if baselines else None for weight in weights]
    first, second = (
        WeightedScores(critic, valid, mean, weights=weight) for mean, weight in zip(means, weights, strict=True)
    )
    return first, second


@pytest.mark.parametrize(("name", "options", "shift", "value"), BEST, ids=str)
def test_a_trained_critic_comes_near_the_divergence_and_never_above(
    name: str, options: dict[str, str], shift: float, value: float
) -> None:
    """0.8 of it after 300 steps; the table's numbers are rounded to four digits. At d = 1/4 it is of the order of 0.01."""
    divergence = component("divergence", name, **options)
    assert isinstance(divergence, Divergence)
    estimate = best_estimate(divergence, shift)
    assert 0.8 * value <= estimate <= value + 6e-5


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0])
def test_gan_is_js_less_log_4(shift: float) -> None:
    ratio = shift * GRID - shift**2 / 2
    gan, js = (FGAN(divergence=kind).estimate(*groups(ratio, shift)).item() for kind in ("gan", "js"))  # type: ignore[arg-type]
    assert gan == pytest.approx(js - 2 * LOG_2, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "activation", "conjugate"),
    [
        ("kl", lambda v: v, lambda t: torch.exp(t - 1)),
        ("reverse_kl", lambda v: -torch.exp(-v), lambda t: -1 - torch.log(-t)),
        ("pearson_chi2", lambda v: v, lambda t: t**2 / 4 + t),
        ("squared_hellinger", lambda v: 1 - torch.exp(-v), lambda t: t / (1 - t)),
        ("js", lambda v: LOG_2 - torch.log1p(torch.exp(-v)), lambda t: -torch.log(2 - torch.exp(t))),
        ("gan", lambda v: -torch.log1p(torch.exp(-v)), lambda t: -torch.log(1 - torch.exp(t))),
    ],
)
def test_composed_conjugates_equal_the_literal_ones(
    kind: str, activation: Callable[[Tensor], Tensor], conjugate: Callable[[Tensor], Tensor]
) -> None:
    values = torch.linspace(-3, 3, 13, dtype=torch.float64)
    scores = Scores(values, torch.ones(13, dtype=torch.bool))
    found = FGAN(divergence=kind)  # type: ignore[arg-type]
    literal = activation(values).mean() - conjugate(activation(values)).mean()
    assert found.estimate(scores, scores).item() == pytest.approx(literal.item(), abs=1e-13)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_clipped_linear_critic_shows_wasserstein_exactly(shift: float) -> None:
    estimate = Wasserstein(constraint="spectral_norm").estimate(*groups(GRID.clone(), shift))
    assert estimate.item() == pytest.approx(shift, abs=1e-9)
    assert best_estimate(Wasserstein(), shift) == pytest.approx(shift, rel=1e-6)


def test_a_spectrally_normed_network_nearly_shows_wasserstein() -> None:
    torch.manual_seed(0)
    module = MLP(hidden_dim=32, spectral_norm=True, activation="leaky_relu").build(1).double()
    divergence, states = Wasserstein(constraint="spectral_norm"), GRID[::8, None, None]
    mask = torch.ones(len(states), 1, dtype=torch.bool)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)

    def estimate() -> Tensor:
        scores = module(states, mask)
        weights = [density(mean)[::8] / density(mean)[::8].sum() for mean in (1.0, 0.0)]
        return divergence.estimate(*(WeightedScores(scores, mask[:, 0], weights=weight) for weight in weights))

    module.train()  # spectral norms iterate
    for _ in range(300):
        optimizer.zero_grad()
        (-estimate()).backward()
        optimizer.step()
    module.eval()
    assert 0.8 <= estimate().item() <= 1.01


@pytest.mark.parametrize(("shift", "value"), [(0.0, 0.0), (0.5, 0.2228), (1.0, 0.5726), (2.0, 1.0208), (4.0, 1.3281)])
def test_ragan_under_the_best_slope_of_at_most_one(shift: float, value: float) -> None:
    slopes = torch.linspace(0, 1, 101, dtype=torch.float64)
    best = max(RaGAN().estimate(*groups(slope * GRID, shift, baselines=True)).item() for slope in slopes)
    assert best == pytest.approx(value, abs=1e-4)


def test_ragan_estimates_of_a_bad_critic_are_negative() -> None:
    """Slope 1 between two equal normal distributions."""
    assert RaGAN().estimate(*groups(GRID.clone(), 0.0, baselines=True)).item() == pytest.approx(-0.2258, abs=1e-4)


@pytest.mark.parametrize(("p", "ragan", "rpgan"), [(0.3, 0.48261, 0.30342), (0.1, 1.17257, 1.02875)])
def test_relativistic_divergences_of_two_coins(p: float, ragan: float, rpgan: float) -> None:
    """P(1) = p against P(1) = 1 - p; a critic is the gap c between its scores of 1 and of 0."""
    gaps = torch.linspace(0, 12, 120_001, dtype=torch.float64)
    zeta = torch.nn.functional.softplus
    high, low = p * gaps, (1 - p) * gaps  # means of the scores; the reference is the group with fewer ones
    loss = p * zeta(low - gaps) + (1 - p) * zeta(low) + (1 - p) * zeta(gaps - high) + p * zeta(-high)
    mirrored = (1 - p) * zeta(high - gaps) + p * zeta(high) + p * zeta(gaps - low) + (1 - p) * zeta(-low)
    assert max(2 * LOG_2 - loss.min(), 2 * LOG_2 - mirrored.min()).item() == pytest.approx(ragan, abs=2e-5)
    # The same through the plugin, on rows in proportion: ten of each group.
    ones = round(10 * (1 - p))
    best_gap = float(gaps[mirrored.argmin()])
    anchor = torch.tensor([best_gap] * ones + [0.0] * (10 - ones), dtype=torch.float64)
    policy = torch.tensor([best_gap] * (10 - ones) + [0.0] * ones, dtype=torch.float64)
    valid = torch.ones(10, dtype=torch.bool)
    scores = (Scores(anchor, valid, anchor.mean()), Scores(policy, valid, policy.mean()))
    assert RaGAN().estimate(*scores).item() == pytest.approx(ragan, abs=2e-5)
    # Independent pairs: equal scores with probability 2 p (1 - p), and one above the other otherwise.
    up, down = (1 - p) ** 2, p**2
    paired = up * zeta(-gaps) + down * zeta(gaps) + 2 * p * (1 - p) * LOG_2
    best = 2 * (LOG_2 - paired.min()).item()
    assert best == pytest.approx(rpgan, abs=2e-5)
    gap = float(gaps[paired.argmin()])
    pairs = list(itertools.product(*(([gap] * ones + [0.0] * (10 - ones)), ([gap] * (10 - ones) + [0.0] * ones))))
    left, right = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    valid = torch.ones(len(pairs), dtype=torch.bool)
    assert RpGAN().estimate(Scores(left, valid), Scores(right, valid)).item() == pytest.approx(rpgan, abs=2e-5)


def test_an_unrestricted_critic_separates_almost_equal_distributions() -> None:
    """Scores of K / eps and -K / eps on two far tails of mass eps; elsewhere 0.

    The farther the tails, the purer they are: N(0, 1) against N(1/4, 1) comes within 0.003 of 2 log 2.
    """
    grid = torch.linspace(-38, 38, 20_001, dtype=torch.float64)
    weights = [torch.exp(-(grid - mean).square() / 2) for mean in (0.25, 0.0)]
    weights = [weight / weight.sum() for weight in weights]
    valid = torch.ones(len(grid), dtype=torch.bool)

    def best(tail: float) -> float:
        upper, lower = (grid > tail + 0.125).double(), (grid < 0.125 - tail).double()
        critic = (upper - lower) / (weights[0] * upper).sum()
        estimates = []
        for size in (0.5, 1.0, 2.0, 4.0, 6.0, 8.0):
            first, second = (
                WeightedScores(size * critic, valid, (size * critic * w).sum(), weights=w) for w in weights
            )
            estimates.append(RaGAN().estimate(first, second).item())
        return max(estimates)

    reached = [best(tail) for tail in (2.0, 8.0, 16.0, 24.0, 36.0)]
    assert reached == sorted(reached)
    assert reached[0] < 0.2
    assert 1.3835 < reached[-1] < 2 * LOG_2


VALUE_AT_EQUALITY = {
    "ragan": 2 * LOG_2,
    "jsd": 2 * LOG_2,
    "wasserstein": 0.0,
    "hinge": 2.0,
    "lsgan": 1 / 4,
    "rpgan": LOG_2,
    "ra_ls": 2.0,
    "ra_hinge": 2.0,
    "f_gan": 0.0,
}
"""The critic loss of the best critic of two equal groups, which is constant."""
BEST_CONSTANT = {"lsgan": 0.5, "f_gan": 1.0}
GAMES = sorted(name for name, cls in ganpo_divergences().items() if cls.needs_critic)


@pytest.mark.parametrize("name", GAMES)
def test_equal_groups_cost_the_tabled_value_and_show_no_divergence(name: str) -> None:
    divergence = ganpo_divergences()[name]()
    values = torch.full((6,), BEST_CONSTANT.get(name, 0.0), dtype=torch.float64)
    same = Scores(values, torch.ones(6, dtype=torch.bool), values.mean())
    assert divergence.critic_loss(same, same).item() == pytest.approx(VALUE_AT_EQUALITY[name], abs=1e-12)
    assert divergence.estimate(same, same).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["jsd", "ragan", "rpgan"])
def test_minimax_and_non_saturating_agree_to_first_order_at_parity_and_always_in_sign(name: str) -> None:
    divergence = ganpo_divergences()[name]()
    slopes = {}
    for form in ("minimax", "non_saturating"):
        gaps = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
        zero = torch.zeros(5, dtype=torch.float64)
        valid = torch.ones(5, dtype=torch.bool)
        loss = divergence.policy_loss(Scores(gaps, valid, zero.mean()), Scores(zero, valid, zero.mean()), form)  # type: ignore[arg-type]
        (slopes[form],) = torch.autograd.grad(5 * loss, gaps)
    assert slopes["minimax"][2] == slopes["non_saturating"][2] == -0.5
    assert (slopes["minimax"] < 0).all()
    assert (slopes["non_saturating"] < 0).all()
    far = Scores(torch.tensor([1e6], dtype=torch.float64), torch.ones(1, dtype=torch.bool), torch.tensor(1e6))
    home = Scores(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.bool), torch.tensor(0.0))
    assert divergence.policy_loss(far, home, "minimax") < -9e5  # unbounded below
    assert divergence.policy_loss(far, home, "non_saturating").item() == pytest.approx(0.0, abs=1e-9)


def test_wasserstein_cross_term_cancels_the_policy() -> None:
    """E s_T - E s_O + E s_X - E s_T: nothing of T is left; hinge's is constant for |s| <= 1."""
    policy = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    valid = torch.ones(2, dtype=torch.bool)
    other = Scores(torch.zeros(2, dtype=torch.float64), valid)
    for name in ("wasserstein", "hinge"):
        divergence = ganpo_divergences()[name]()
        quad = divergence.critic_loss(other, Scores(policy, valid)) + divergence.critic_loss(
            Scores(policy, valid), other
        )
        (force,) = torch.autograd.grad(quad, policy)
        assert force.abs().max() < 1e-15
        assert not divergence.allows_cross


def test_ordering_of_distances_on_paired_samples() -> None:
    """mean <= frechet <= width * mse, and sliced Wasserstein-2 <= mse on a full basis of directions."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(64, 1, dtype=torch.bool)
    reference = torch.randn(64, 1, 8, generator=generator, dtype=torch.float64)
    policy = reference * 1.3 + 0.2 * torch.randn(64, 1, 8, generator=generator, dtype=torch.float64) + 0.1
    of = {
        name: component("divergence", name, **options).distance(Latents(policy, mask), Latents(reference, mask)).item()  # type: ignore[attr-defined]
        for name, options in {
            "mean": {},
            "frechet": {},
            "mse": {},
            "sliced_wasserstein": {"num_directions": 8},
            "coral": {},
        }.items()
    }
    assert of["mean"] <= of["frechet"] <= 8 * of["mse"]
    assert of["sliced_wasserstein"] <= of["mse"]
    full = component("divergence", "frechet", covariance="full").distance(
        Latents(policy, mask), Latents(reference, mask)
    )  # type: ignore[attr-defined]
    assert of["mean"] <= full.item() <= 8 * of["mse"]
    shifted = component("divergence", "coral").distance(Latents(reference + 3.0, mask), Latents(reference, mask))  # type: ignore[attr-defined]
    assert shifted.item() == pytest.approx(0.0, abs=1e-25)
