"""Each warning comes after three intervals of its sign, once, and again only after it had gone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ganpo_core import Discriminator, LatentExtractor
from ganpo_core.adversary.critic import Critic
from ganpo_core.adversary.health import STEEPEST, Health


class Row(nn.Module):
    """A linear layer whose weight is kept at spectral norm 1, or not."""

    def __init__(self, width: int, normed: bool) -> None:
        super().__init__()
        layer = nn.Linear(width, 4)
        self.layer = spectral_norm(layer) if normed else layer

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        scores: Tensor = self.layer(states).mean((1, 2))
        return scores


class Rows(Discriminator):
    """Makes one."""

    normed = True

    def build(self, latent_dim: int) -> nn.Module:
        return Row(latent_dim, self.normed)


class PlainRows(Rows):
    """Without the norm."""

    normed = False


def interval(gap: float, accuracy: float = 0.5, cross: float = 0.3) -> dict[str, float]:
    return {
        "adversary/chosen/gap": gap,
        "adversary/chosen/accuracy": accuracy,
        "adversary/chosen/score_anchor": 1.0,
        "adversary/chosen/score_cross": cross,
    }


@pytest.mark.parametrize(
    ("metrics", "word"),
    [(interval(6.0, 0.99), "saturated"), (interval(-3.5), "overtaken"), (interval(0.0, cross=1.0), "collapsed")],
)
def test_a_trend_is_named_once(metrics: dict[str, float], word: str) -> None:
    health = Health("adversary")
    said = [list(health.warnings(metrics)) for _ in range(5)]
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0]
    assert said[2][0].startswith(f"warning: adversary/chosen critic is {word}")
    assert not list(health.warnings(interval(0.1)))
    assert [len(list(health.warnings(metrics))) for _ in range(3)] == [0, 0, 1]


def test_a_critic_at_work_is_left_alone() -> None:
    health = Health("adversary")
    assert not [line for _ in range(9) for line in health.warnings(interval(0.4, 0.7))]


def test_a_spectral_norm_that_lags_behind_is_measured_exactly() -> None:
    """Singular vectors that do not fit make a weight steeper than 1; power iterations bring it back to 1."""
    torch.manual_seed(0)
    critic = Critic(Rows(), LatentExtractor(), 6, torch.float64)
    for _ in range(60):
        critic.step_spectral_norms()
    assert critic.largest_singular_value() == pytest.approx(1.0, abs=1e-9)
    norm = critic.module.layer.parametrizations.weight[0]  # type: ignore[union-attr, index]
    norm._u.copy_(nn.functional.normalize(torch.ones(4, dtype=torch.float64), dim=0))
    lagging = critic.largest_singular_value()
    assert lagging is not None
    assert lagging > STEEPEST
    for _ in range(60):
        critic.step_spectral_norms()
    assert critic.largest_singular_value() == pytest.approx(1.0, abs=1e-9)


def test_a_critic_without_spectral_norms_has_no_singular_value() -> None:
    assert Critic(PlainRows(), LatentExtractor(), 6, torch.float64).largest_singular_value() is None
