"""Log-probabilities for tests of objectives: drawn at random, or given as totals of responses of one token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ganpo_core
from ganpo_core import Objective, PairLogps, TokenLogps

RECORD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "fixtures" / "trl_losses.json").read_text())
"""What TRL computed."""


def objective(name: str, **options: Any) -> Objective:
    made = ganpo_core.component("objective", name, **options)
    assert isinstance(made, Objective)
    return made


def one_token(totals: Tensor | Sequence[float]) -> TokenLogps:
    """Responses of a single token each."""
    values = torch.as_tensor(totals, dtype=torch.float64)[:, None]
    return TokenLogps(values, torch.ones_like(values, dtype=torch.bool))


def from_ratios(chosen: Tensor | Sequence[float], rejected: Tensor | Sequence[float]) -> tuple[PairLogps, PairLogps]:
    """Policy and reference with these log-ratios: the reference gives every response probability 1."""
    policy = PairLogps(one_token(chosen), one_token(rejected))
    nothing = one_token(torch.zeros(len(policy.chosen.logps), dtype=torch.float64))
    return policy, PairLogps(nothing, nothing)


def drawn(seed: int, pairs: int = 7, width: int = 6, dtype: torch.dtype = torch.float64) -> PairLogps:
    """Ragged responses of random tokens, with statistics, token ids and preferences."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.Generator().manual_seed(1)  # the same for policy and reference

    def side() -> TokenLogps:
        mask = torch.arange(width) < torch.randint(1, width + 1, (pairs, 1), generator=lengths)
        logps = (-3 * torch.rand(pairs, width, generator=draw, dtype=torch.float64)).to(dtype).requires_grad_()
        names = ("log_sum_sq_probs", "normalized_entropy", "reference_kl")
        statistics = {name: torch.rand(pairs, width, generator=draw, dtype=torch.float64) for name in names}
        return TokenLogps(logps, mask, statistics, torch.randint(5, (pairs, width), generator=draw))

    chance = 0.5 + 0.5 * torch.rand(pairs, generator=draw, dtype=torch.float64)
    return PairLogps(side(), side(), preference=chance)


def per_pair(made: Objective, policy: PairLogps, reference: PairLogps) -> Tensor:
    return made.loss(policy, reference if made.needs_reference else None).per_pair
