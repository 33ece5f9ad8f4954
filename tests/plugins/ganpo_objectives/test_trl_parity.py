"""Our losses against values that TRL itself computed; `tests/fixtures/record_trl.py` records them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ganpo_core
from ganpo_core import Objective, PairLogps, TokenLogps

RECORD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "fixtures" / "trl_losses.json").read_text())


def recorded(name: str) -> PairLogps:
    """One model's log-probabilities of the recorded batch: chosen rows first, responses anywhere in a row."""
    logps = torch.tensor(RECORD["batch"][name], dtype=torch.float64)
    mask = torch.tensor(RECORD["batch"]["mask"])
    statistics = {"log_sum_sq_probs": torch.tensor(RECORD["batch"]["log_sum_sq_probs"], dtype=torch.float64)}
    half = len(logps) // 2
    return PairLogps(
        TokenLogps(logps[:half], mask[:half], {key: value[:half] for key, value in statistics.items()}),
        TokenLogps(logps[half:], mask[half:], {key: value[half:] for key, value in statistics.items()}),
    )


@pytest.mark.parametrize(
    ("trainer", "loss", "name", "options"),
    [
        ("dpo", "sigmoid", "dpo", {"beta": 0.1}),
        ("cpo", "simpo", "simpo", {"beta": 2.0, "gamma_ratio": 0.5}),
    ],
)
def test_loss_is_what_trl_computes(trainer: str, loss: str, name: str, options: dict[str, Any]) -> None:
    objective = ganpo_core.component("objective", name, **options)
    assert isinstance(objective, Objective)
    reference = recorded("reference") if objective.needs_reference else None
    ours = objective.loss(recorded("policy"), reference).per_pair.mean().item()
    assert ours == pytest.approx(RECORD[trainer][loss]["loss"], abs=1e-5)
