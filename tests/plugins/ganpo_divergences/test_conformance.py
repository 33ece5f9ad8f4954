"""Every built-in divergence keeps its contract; a new one is found here by itself."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from ganpo_divergences import ganpo_divergences
from ganpo_divergences.coral import Coral
from ganpo_divergences.energy import Energy
from ganpo_divergences.f_gan import FGAN, Kind
from ganpo_divergences.frechet import Frechet
from ganpo_divergences.mean import Mean
from ganpo_divergences.mmd import MMD
from ganpo_divergences.rpgan import RpGAN
from ganpo_divergences.sliced_wasserstein import SlicedWasserstein
from ganpo_divergences.wasserstein import Wasserstein

from ganpo_core import Divergence, GeneratorForm, Scores
from ganpo_core.testing import check_divergence

SAMPLE_DISTANCES = (Coral, Energy, Frechet, Mean, MMD, SlicedWasserstein)
VARIANTS = (
    Wasserstein(constraint="clipping"),
    Wasserstein(constraint="spectral_norm"),
    RpGAN(r1=0.0, r2=0.0),
    *(FGAN(divergence=kind) for kind in get_args(Kind)),
    *(distance(tokens=True) for distance in SAMPLE_DISTANCES),
    *(distance(queue=3) for distance in SAMPLE_DISTANCES),
    MMD(scale=1.3),
    MMD(unbiased=True),
    Energy(unbiased=True),
    SlicedWasserstein(order=1),
    Frechet(covariance="full"),
)

FORCE_AT_PARITY = {
    ("ragan", "minimax"): -1 / 2,
    ("ragan", "non_saturating"): -1 / 2,
    ("ragan", "full"): -1.0,  # half of it through the policy's own mean
    ("ra_ls", "non_saturating"): -2.0,  # 2 (s - m - 1)
    ("ra_ls", "full"): -4.0,
    ("ra_hinge", "non_saturating"): -1.0,
    ("ra_hinge", "full"): -2.0,
}
"""d policy_loss / d s_policy of one row where s_policy = m_anchor, for every relativistic divergence and form."""


@pytest.mark.parametrize("name", sorted(ganpo_divergences()))
def test_divergence_keeps_its_contract(name: str) -> None:
    check_divergence(ganpo_divergences()[name]())


@pytest.mark.parametrize("divergence", VARIANTS, ids=repr)
def test_divergence_keeps_its_contract_with_other_options(divergence: Divergence) -> None:
    check_divergence(divergence)


RELATIVISTIC = [
    (name, form)
    for name, divergence in ganpo_divergences().items()
    if divergence.baseline == "group_mean"
    for form in divergence.forms
]


def force_at_parity(divergence: Divergence, form: GeneratorForm) -> float:
    """Of one policy row whose score, and whose mean, equals the anchor's."""
    score = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    valid = torch.ones(1, dtype=torch.bool)
    anchor = Scores(score.detach(), valid, score.detach().mean())
    loss = divergence.policy_loss(Scores(score, valid, score.mean()), anchor, form)
    return torch.autograd.grad(loss, score)[0].item()


@pytest.mark.parametrize(("name", "form"), RELATIVISTIC)
def test_force_on_one_policy_score_at_parity(name: str, form: GeneratorForm) -> None:
    assert force_at_parity(ganpo_divergences()[name](), form) == pytest.approx(FORCE_AT_PARITY[name, form])


def test_the_mean_over_two_critics_halves_the_force() -> None:
    """Minimax summed over critics pulls one critic's score with -1/2, non-saturating averaged over them with -1/4."""
    ragan = ganpo_divergences()["ragan"]()
    assert force_at_parity(ragan, "minimax") == pytest.approx(-1 / 2)
    assert force_at_parity(ragan, "non_saturating") / 2 == pytest.approx(-1 / 4)
