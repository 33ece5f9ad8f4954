"""What objectives read from log-probabilities: sums, means and counts over response tokens alone."""

from __future__ import annotations

import math

import torch

from ganpo_core import TokenLogps


def test_total_mean_and_length_by_hand() -> None:
    """(-1, -2, -3) with all three: -6 / 3 = -2. The second row has one token of -4, the third none."""
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, math.nan, 7.0], [math.nan, math.inf, 1.0]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    tokens = TokenLogps(logps, mask)
    assert tokens.total.tolist() == [-6.0, -4.0, 0.0]
    assert tokens.length.tolist() == [3.0, 1.0, 0.0]
    assert tokens.mean.tolist() == [-2.0, -4.0, 0.0]
    (gradient,) = torch.autograd.grad(tokens.mean.sum(), logps)
    torch.testing.assert_close(gradient, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
