"""Our losses against values that TRL itself computed; `tests/fixtures/record_trl.py` records them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_samples import RECORD, objective

from ganpo_core import PairLogps, TokenLogps

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
    # TRL's coefficient is 1 - alpha: 0 is the forward KL, 1 the reverse KL.
    ("dpo", "f_alpha_0.0", "f_dpo", {"divergence": "forward_kl"}),
    ("dpo", "f_alpha_1.0", "f_dpo", {"divergence": "reverse_kl"}),
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
    ("cpo", "cpo", "cpo", {"sft_norm": "token_mean"}),
    ("cpo", "cpo_without_likelihood", "cpo", {"alpha": 0.0}),
    ("cpo", "cpo_hinge", "slic", {"beta": 0.1, "lam": 0.0}),
    ("cpo", "simpo", "simpo", {"beta": 2.0, "gamma_ratio": 0.5}),
    (
        "cpo",
        "simpo_with_likelihood",
        "weighted",
        {"objectives": [{"use": "simpo", "beta": 2.0, "gamma_ratio": 0.5}, {"use": "sft", "weight": 0.5}]},
    ),
    ("cpo", "alpha_po", "alpha_po", {"beta": 2.5, "gamma_ratio": 0.04, "alpha": 0.25}),
    # CPO has no reference: it is ours against one that gives every response probability 1.
    ("cpo", "cpo_ipo", "ipo", {"beta": 0.1}),
    ("orpo", "orpo", "orpo", {"lam": 0.1, "sft_norm": "token_mean"}),
    ("orpo", "orpo_with_prompts", "orpo", {"lam": 0.1, "sft_norm": "token_mean", "with_prompt": True}),
    ("orpo", "orpo_strong", "orpo", {"lam": 1.5, "sft_norm": "token_mean"}),
]
UNPAIRED = [
    ("kto", "kto", {}),
    ("kto_weighted", "kto", {"desirable_weight": 1.3, "undesirable_weight": 0.8}),
    ("apo_zero_unpaired", "apo_zero", {}),
]
each_batch = pytest.mark.parametrize("batch", RECORD["batches"], ids=["first", "second", "third"])


def recorded(batch: dict[str, Any], name: str) -> PairLogps:
    """One model's log-probabilities of a recorded batch: chosen rows first, responses anywhere in a row."""
    rows = recorded_rows(batch, name)
    half = len(rows.logps) // 2
    sides = [
        TokenLogps(rows.logps[part], rows.mask[part], {key: value[part] for key, value in rows.statistics.items()})
        for part in (slice(half), slice(half, None))
    ]
    values, pairs = batch["values"], slice(half)
    prompt = TokenLogps(torch.tensor(values["prompt"], dtype=torch.float64)[pairs], torch.tensor(values["prompt_mask"])[pairs])
    return PairLogps(*sides, prompt=prompt)


def recorded_rows(batch: dict[str, Any], name: str) -> TokenLogps:
    """The same as single responses; the reference `nothing` gives probability 1 to all."""
    values = batch["values"]
    logps = torch.tensor(values.get(name, values["policy"]), dtype=torch.float64)
    logps = torch.zeros_like(logps) if name == "nothing" else logps
    statistics = {"log_sum_sq_probs": torch.tensor(values["log_sum_sq_probs"], dtype=torch.float64)}
    return TokenLogps(logps, torch.tensor(values["mask"]), statistics)


@each_batch
@pytest.mark.parametrize(("trainer", "loss", "name", "options"), SAME)
def test_loss_is_what_trl_computes(
    trainer: str, loss: str, name: str, options: dict[str, Any], batch: dict[str, Any]
) -> None:
    made = objective(name, **options)
    reference = recorded(batch, "reference" if trainer == "dpo" else "nothing") if made.needs_reference else None
    ours = made.loss(recorded(batch, "policy"), reference).per_pair.mean().item()
    assert ours == pytest.approx(batch["losses"][trainer][loss], rel=1e-7, abs=1e-5)


@each_batch
@pytest.mark.parametrize(("loss", "name", "options"), UNPAIRED)
def test_unpaired_loss_is_what_trl_computes(
    loss: str, name: str, options: dict[str, Any], batch: dict[str, Any]
) -> None:
    kl = torch.tensor(batch["mismatched"]["policy"]) - torch.tensor(batch["mismatched"]["reference"])
    assert kl.mean() > 0
    policy = replace(recorded_rows(batch, "policy"), batch={"mismatched": kl.mean()})
    desirable = torch.tensor(RECORD["desirable"])
    answer = objective(name, **options).loss_unpaired(policy, recorded_rows(batch, "reference"), desirable)
    assert answer.per_response.mean().item() == pytest.approx(batch["losses"]["kto"][loss], abs=1e-5)


@each_batch
def test_every_recorded_loss_is_compared(batch: dict[str, Any]) -> None:
    compared = {(trainer, loss) for trainer, loss, *_ in SAME} | {("kto", loss) for loss, *_ in UNPAIRED}
    assert {(trainer, loss) for trainer, losses in batch["losses"].items() for loss in losses} == compared
