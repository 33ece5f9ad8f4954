"""Entropies in closed form, and temperatures that match them."""

from __future__ import annotations

import math

import pytest
import torch

from ganpo_core.entropy import matching_temperature, mean_entropy, temperature_of


def test_a_known_temperature_is_recovered() -> None:
    """Logits multiplied by 1.6 are as random at T = 1.6 as the originals at 1."""
    logits = torch.randn(200, 28, generator=torch.Generator().manual_seed(0))
    assert matching_temperature(1.6 * logits, mean_entropy(logits)) == pytest.approx(1.6, rel=1e-6)
    assert mean_entropy(torch.zeros(3, 28)) == pytest.approx(math.log(28))


def test_two_tokens_in_closed_form() -> None:
    """Logits (log 3, 0): p = 3/4, 1/4; entropy log 4 - 0.75 log 3."""
    assert mean_entropy(torch.tensor([[math.log(3), 0.0]])) == pytest.approx(math.log(4) - 0.75 * math.log(3))


def test_an_entropy_out_of_reach_gives_the_end_of_the_range() -> None:
    logits = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    assert matching_temperature(logits, math.log(8)) == 5.0
    assert matching_temperature(logits, 0.0) == 0.2


def test_few_passes_over_the_data_are_enough() -> None:
    calls: list[float] = []

    def entropy_at(temperature: float) -> float:
        calls.append(temperature)
        return math.tanh(temperature)

    assert temperature_of(entropy_at, math.tanh(1.3)) == pytest.approx(1.3, rel=1e-7)
    assert len(calls) < 15
