"""Values and gradients where the policy still is the reference, by hand, and far away from there."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from ganpo_objectives import ganpo_objectives
from ganpo_objectives.stages import Surrogate
from objective_samples import drawn, objective
from torch import Tensor

from ganpo_core import Objective, PairLogps, TokenLogps

CHOSEN, REJECTED = 2, 3
"""Tokens of the two responses."""

# loss; d loss / d log pi(chosen); d loss / d log pi(rejected), where z = 0. sigma(0) = 1/2, softplus(0) = log 2.
AT_START: list[tuple[str, dict[str, Any], float, float, float]] = [
    ("dpo", {"beta": 0.1}, math.log(2), -0.05, 0.05),
    ("cdpo", {"beta": 0.1, "label_smoothing": 0.1}, math.log(2), -0.04, 0.04),  # -beta (1 - 2e) / 2
    ("robust", {"beta": 0.1, "label_smoothing": 0.1}, math.log(2), -0.0625, 0.0625),  # -beta / (2 (1 - 2e))
    ("ipo", {"beta": 0.1}, 25.0, -5.0, 10 / 3),  # (1 / 2 beta)^2; -1 / (beta n)
    ("ipo", {"beta": 0.1, "reduction": "sum"}, 25.0, -10.0, 10.0),
    ("hinge", {"beta": 0.1}, 1.0, -0.1, 0.1),
    ("gpo", {"surrogate": "exponential"}, 1.0, -0.1, 0.1),
    ("gpo", {"surrogate": "squared"}, 1.0, -0.2, 0.2),
    ("gpo", {"surrogate": "truncated_quadratic"}, 1.0, -0.2, 0.2),
    ("exo", {"beta": 0.1}, 2.7612, -0.17267, 0.17267),
    ("nca", {"beta": 0.1}, 2 * math.log(2), -0.025, 0.025),
    ("sppo", {"beta": 1e-3}, 5e5, -1e3, 1e3),  # 0.5 / beta^2; -1 / beta
    ("aot", {"beta": 0.1}, math.log(2), -0.05, 0.05),
    ("aot_unpaired", {"beta": 0.1}, math.log(2), -0.05, 0.05),
    ("apo_zero", {"beta": 0.1}, 1.0, -0.025, 0.025),
    ("apo_down", {"beta": 0.1}, 1.0, 0.0, 0.025),
    ("kto", {"beta": 0.1}, 1.0, -0.025, 0.025),
    ("bco", {"beta": 0.1}, 2 * math.log(2), -0.05, 0.05),
    ("f_dpo", {"divergence": "reverse_kl"}, math.log(2), -0.05, 0.05),
    ("f_dpo", {"divergence": "forward_kl"}, math.log(2), -0.05, 0.05),
    ("f_dpo", {"divergence": "js"}, math.log(2), -0.025, 0.025),  # phi'(0) = 1/2
    ("f_dpo", {"divergence": "alpha"}, math.log(2), -0.05, 0.05),
    ("dpo_norm", {"beta": 2.0}, math.log(2), -0.5, 1 / 3),  # -beta / (2 n)
    ("chi_po", {"beta": 0.1}, math.log(2), -0.1, 0.1),  # twice DPO's
    ("discopop", {}, 0.5 * math.log(2) + 0.5, 0.0392132, -0.0392132),  # against the data
    ("tdpo1", {"beta": 0.1}, math.log(2), -0.05, 0.05),
    ("tdpo2", {"beta": 0.1}, math.log(2), -0.05, 0.05),
    ("r_dpo", {"beta": 0.1, "alpha": 0.5}, math.log1p(math.exp(0.5)), -0.0622459, 0.0622459),  # -beta sigma(1/2)
    ("dpo_positive", {"beta": 0.1}, math.log(2), -0.05, 0.05),
    ("cal_dpo", {"beta": 1e-3}, math.log(2) + 250000.0, -500.5, 500.5),
    ("spin", {}, math.log(2), -0.05, 0.05),
    ("rspo", {"lam": 0.0}, 2.5e5, -500.0, 500.0),
    ("rspo", {"lam": 1.0}, 2.5e5 + 2, -501.0, 499.0),  # e^-z: 1 each, slope -1
    # log pi(chosen) = -2 over 2 tokens, log pi(rejected) = -6 over 3: means of -1 and -2.
    ("simpo", {"beta": 2.0, "gamma_ratio": 0.5}, math.log1p(math.exp(-1)), -0.2689414, 0.1792943),
    ("cpo", {"beta": 0.1, "alpha": 1.0}, math.log1p(math.exp(-0.4)) + 1.0, -0.5401312, 0.0401312),
    ("slic", {}, 0.2, -0.1, 0.0),  # max(0, 1 - 4) + 0.1 * 2
    ("slic", {"delta": 6.0}, 2.2, -1.1, 1.0),
    ("sft", {}, 1.0, -0.5, 0.0),
    ("rpo", {"beta": 0.1, "eta": 0.005}, math.log(2) + 0.01, -0.055, 0.05),
    ("rpo", {"beta": 0.1, "eta": 1.0, "sft_norm": "seq_mean"}, math.log(2) + 1.0, -0.55, 0.05),
]


def two_models() -> tuple[PairLogps, PairLogps, tuple[Tensor, Tensor]]:
    """One pair, both models alike, and the policy's totals as leaves."""
    chosen, rejected = (torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (-2.0, -6.0))

    def spread(total: Tensor, length: int) -> TokenLogps:
        zeros = torch.zeros(1, length, dtype=torch.float64)
        statistics = {"reference_kl": zeros, "log_sum_sq_probs": zeros, "normalized_entropy": zeros + 0.5}
        return TokenLogps((total / length)[:, None].expand(1, length), torch.ones(1, length, dtype=torch.bool), statistics)

    policy = PairLogps(spread(chosen, CHOSEN), spread(rejected, REJECTED))
    reference = PairLogps(spread(chosen.detach(), CHOSEN), spread(rejected.detach(), REJECTED))
    return policy, reference, (chosen, rejected)


def loss_of(made: Objective, policy: PairLogps, reference: PairLogps) -> Tensor:
    return made.loss(policy, reference if made.needs_reference else None).per_pair


@pytest.mark.parametrize(("name", "options", "value", "of_chosen", "of_rejected"), AT_START)
def test_value_and_gradients_at_the_start(
    name: str, options: dict[str, Any], value: float, of_chosen: float, of_rejected: float
) -> None:
    policy, reference, leaves = two_models()
    found = loss_of(objective(name, **options), policy, reference)
    gradients = torch.autograd.grad(found.sum(), leaves, allow_unused=True)
    assert found.item() == pytest.approx(value, rel=1e-4)
    found_gradients = [0.0 if gradient is None else gradient.item() for gradient in gradients]
    assert found_gradients == [pytest.approx(of_chosen, rel=1e-4), pytest.approx(of_rejected, rel=1e-4)]


def test_orpo_at_the_start() -> None:
    """Means -1 and -2: log odds -1 - log(1 - e^-1) = -0.541325, -2 - log(1 - e^-2) = -1.854587; 0.1 softplus(-1.313262)."""
    policy, reference, _ = two_models()
    found = loss_of(objective("orpo"), policy, reference).item()
    assert found == pytest.approx(1.0 + 0.1 * math.log1p(math.exp(-1.313262)), rel=1e-5)


@pytest.mark.parametrize("name", sorted(set(ganpo_objectives()) - {"apo_down", "discopop"}))
def test_the_first_step_raises_the_chosen_response(name: str) -> None:
    policy, reference, leaves = two_models()
    if "token_ids" in objective(name).needs:
        ids = [torch.arange(CHOSEN)[None], torch.arange(5, 5 + REJECTED)[None]]
        policy = PairLogps(*(
            TokenLogps(side.logps, side.mask, side.statistics, own)
            for side, own in zip((policy.chosen, policy.rejected), ids, strict=True)
        ))
    (slope,) = torch.autograd.grad(loss_of(objective(name), policy, reference).sum(), leaves[:1])
    assert slope.item() < 0


STEEPEST: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(ganpo_objectives())),
    *(("gpo", {"surrogate": surrogate, "beta": 10.0}) for surrogate in get_args(Surrogate)),
    *(("f_dpo", {"divergence": "alpha", "alpha": alpha}) for alpha in (-2.0, 0.3, 5.0)),
    ("f_dpo", {"divergence": "forward_kl"}),
    ("f_dpo", {"divergence": "js"}),
    ("chi_po", {"clip": 1.0}),
    ("alpha_po", {"alpha": -1.0}),
    ("alpha_po", {"alpha": 5.0}),
    ("wpo", {"clamp": 5.0}),
    ("mallows_dpo", {"link_function": "squared"}),
    *(("rspo", {"regularizer": kind}) for kind in ("reverse_kl", "chi_squared", "forward_and_reverse")),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("name", "options"), STEEPEST)
def test_loss_is_finite_ten_thousand_nats_away(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    made = objective(name, **options)
    total = torch.tensor([1e4, 100.0, 1.0, 0.0, -1.0, -100.0, -1e4])
    base = drawn(0, pairs=7, dtype=dtype)

    def moved(side: TokenLogps, totals: Tensor) -> TokenLogps:
        values = (-1 + totals[:, None] / side.length[:, None].float()).expand(side.mask.shape).clamp(max=0)
        return TokenLogps(values.to(dtype).detach().requires_grad_(), side.mask, side.statistics, side.token_ids)

    policy = PairLogps(moved(base.chosen, -total), moved(base.rejected, total), base.preference)
    reference = PairLogps(moved(base.chosen, total), moved(base.rejected, -total))
    found = loss_of(made, policy, reference)
    assert found.dtype == torch.float32 or name in ("tdpo1", "tdpo2", "wpo", "mallows_dpo", "bmc", "sppo")
    assert bool(found.isfinite().all())
    gradients = torch.autograd.grad(
        found.sum(), [policy.chosen.logps, policy.rejected.logps], allow_unused=True
    )
    assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpo", {"beta": 0.0}),
        ("dpo", {"label_smoothing": 0.5}),
        ("cdpo", {"label_smoothing": 0.5}),
        ("robust", {"label_smoothing": 0.5}),
        ("exo", {"label_smoothing": 0.0}),
        ("exo", {"label_smoothing": 0.5}),
        ("aot", {"label_smoothing": 0.6}),
        ("ipo", {"beta": -1.0}),
        ("gpo", {"surrogate": "cubic"}),
        ("simpo", {"gamma_ratio": -0.1}),
        ("ld_dpo", {"alpha": 1.5}),
        ("alpha_spin", {"alpha": -0.1}),
        ("fictitious_spin", {"history": 0}),
        ("bco", {"delta_decay": 1.0}),
        ("kto", {"desirable_weight": 0.0}),
        ("f_dpo", {"divergence": "hellinger"}),
        ("wpo", {"clamp": 0.0}),
        ("weighted", {"objectives": []}),
        ("weighted", {"objectives": [{"use": "dpo", "weight": -1.0}]}),
        ("weighted", {"objectives": [{"weight": 1.0}]}),
        ("weighted", {"objectives": [{"use": "dop"}]}),
        ("weighted", {"objectives": [{"use": "dpo", "betta": 1.0}]}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    from ganpo_core import ConfigError

    with pytest.raises(ConfigError, match="objective"):
        objective(name, **options)
