"""Our losses against values that TRL itself computed; `tests/fixtures/record_trl.py` records them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ganpo_core
from ganpo_core import Objective, PairLogps, TokenLogps

RECORD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "fixtures" / "trl_losses.json").read_text())

SAME = [
    ("dpo", "sigmoid", "dpo", {}),
    ("dpo", "sigmoid", "gpo", {"surrogate": "logistic"}),
    ("dpo", "hinge", "hinge", {}),
    ("dpo", "ipo", "ipo", {}),
    ("dpo", "exo_pair_smoothed", "exo", {"label_smoothing": 0.1}),
    ("dpo", "nca_pair", "nca", {}),
    ("dpo", "robust_smoothed", "robust", {"label_smoothing": 0.1}),
    ("dpo", "bco_pair", "bco", {"delta": "zero"}),
    ("dpo", "sppo_hard", "sppo", {"beta": 0.1}),
    ("dpo", "aot", "aot", {}),
    ("dpo", "aot_smoothed", "aot", {"label_smoothing": 0.1}),
    ("dpo", "aot_unpaired", "aot_unpaired", {}),
    ("dpo", "aot_unpaired_smoothed", "aot_unpaired", {"label_smoothing": 0.1}),
    ("dpo", "apo_zero", "apo_zero", {}),
    ("dpo", "apo_down", "apo_down", {}),
    ("dpo", "discopop", "discopop", {"beta": 0.1}),
    ("dpo", "sft", "sft", {}),
    ("dpo", "sigmoid_norm", "dpo_norm", {"beta": 0.1}),
    ("dpo", "f_forward_kl", "f_dpo", {"divergence": "forward_kl"}),
    ("dpo", "f_js_divergence", "f_dpo", {"divergence": "js"}),
    # TRL's coefficient is 1 - alpha.
    ("dpo", "f_alpha_0.3", "f_dpo", {"divergence": "alpha", "alpha": 0.7}),
    ("dpo", "f_alpha_0.5", "f_dpo", {"divergence": "alpha", "alpha": 0.5}),
    ("dpo", "ld", "ld_dpo", {"alpha": 0.4}),
    ("dpo", "wpo", "wpo", {"beta": 0.1, "clamp": None}),
    ("dpo", "rpo", "rpo", {"beta": 0.1, "eta": 0.3, "sft_norm": "token_mean"}),
    (
        "dpo",
        "mpo",
        "weighted",
        {"objectives": [{"use": "dpo", "weight": 0.8}, {"use": "bco", "weight": 0.2, "delta": "zero"}, {"use": "sft"}]},
    ),
    ("cpo", "cpo", "cpo", {"alpha": 0.0}),
    ("cpo", "cpo_hinge", "slic", {"beta": 0.1, "lam": 0.0}),
    ("cpo", "simpo", "simpo", {"beta": 2.0, "gamma_ratio": 0.5}),
    ("cpo", "alpha_po", "alpha_po", {"beta": 2.5, "gamma_ratio": 0.04, "alpha": 0.25}),
]
UNPAIRED = [
    ("kto", "kto", {}),
    ("kto_weighted", "kto", {"desirable_weight": 1.3, "undesirable_weight": 0.8}),
    ("apo_zero_unpaired", "apo_zero", {}),
]


def recorded(name: str) -> PairLogps:
    """One model's log-probabilities of the recorded batch: chosen rows first, responses anywhere in a row."""
    rows = recorded_rows(name)
    half = len(rows.logps) // 2
    sides = [
        TokenLogps(rows.logps[part], rows.mask[part], {key: value[part] for key, value in rows.statistics.items()})
        for part in (slice(half), slice(half, None))
    ]
    return PairLogps(*sides)


def recorded_rows(name: str) -> TokenLogps:
    """The same as single responses."""
    logps = torch.tensor(RECORD["batch"][name], dtype=torch.float64)
    statistics = {"log_sum_sq_probs": torch.tensor(RECORD["batch"]["log_sum_sq_probs"], dtype=torch.float64)}
    return TokenLogps(logps, torch.tensor(RECORD["batch"]["mask"]), statistics)


def made(name: str, options: dict[str, Any]) -> Objective:
    objective = ganpo_core.component("objective", name, **options)
    assert isinstance(objective, Objective)
    return objective


@pytest.mark.parametrize(("trainer", "loss", "name", "options"), SAME)
def test_loss_is_what_trl_computes(trainer: str, loss: str, name: str, options: dict[str, Any]) -> None:
    objective = made(name, options)
    reference = recorded("reference") if objective.needs_reference else None
    ours = objective.loss(recorded("policy"), reference).per_pair.mean().item()
    assert ours == pytest.approx(RECORD[trainer][loss]["loss"], abs=1e-5)


@pytest.mark.parametrize(("loss", "name", "options"), UNPAIRED)
def test_unpaired_loss_is_what_trl_computes(loss: str, name: str, options: dict[str, Any]) -> None:
    objective = made(name, options)
    kl = torch.tensor(RECORD["mismatched"]["policy"]) - torch.tensor(RECORD["mismatched"]["reference"])
    assert kl.mean() > 0
    policy = replace(recorded_rows("policy"), batch={"mismatched": kl.mean()})
    desirable = torch.tensor(RECORD["desirable"])
    ours = objective.loss_unpaired(policy, recorded_rows("reference"), desirable).per_response.mean().item()
    assert ours == pytest.approx(RECORD["kto"][loss]["loss"], abs=1e-5)


def test_odds_ratio_term_is_what_trl_computes() -> None:
    """ORPO's trainer subtracts this from the likelihood's loss, which it takes over prompts as well."""
    policy = recorded("policy")
    ours = made("orpo", {"lam": 0.1}).loss(policy, None).per_pair + policy.chosen.mean
    assert ours.mean().item() == pytest.approx(RECORD["orpo"]["orpo"]["loss"], abs=1e-5)


def test_every_recorded_loss_is_compared() -> None:
    compared = {(trainer, loss) for trainer, loss, *_ in SAME} | {("kto", loss) for loss, *_ in UNPAIRED}
    recorded_losses = {(trainer, loss) for trainer in ("dpo", "cpo", "kto") for loss in RECORD[trainer]}
    # CPO's IPO has no reference to be an identity of; it is recorded to say that it was seen.
    assert recorded_losses - compared == {("cpo", "cpo_ipo")}
