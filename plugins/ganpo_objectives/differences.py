"""Which tokens of two responses are not in their longest common subsequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def changed_tokens(
    chosen_BT: Tensor,
    chosen_mask_BT: Tensor,
    rejected_BT: Tensor,
    rejected_mask_BT: Tensor,
    ignored: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """[B, T] bool for each side, True on response tokens that the other response does not share in order."""
    found = torch.zeros_like(chosen_mask_BT), torch.zeros_like(rejected_mask_BT)
    for row in range(len(chosen_BT)):
        left = chosen_BT[row][chosen_mask_BT[row]].cpu().numpy()
        right = rejected_BT[row][rejected_mask_BT[row]].cpu().numpy()
        kept = common_subsequence(left, right)
        for side, mask, tokens, common in zip(
            found, (chosen_mask_BT, rejected_mask_BT), (left, right), kept, strict=True
        ):
            differs = ~common & ~np.isin(tokens, list(ignored))
            side[row][mask[row]] = torch.from_numpy(differs).to(side.device)
    return found


def common_subsequence(
    left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which elements of each sequence belong to one longest common subsequence."""
    rows, columns = len(left), len(right)
    lengths = np.zeros((rows + 1, columns + 1), dtype=np.int32)
    for row in range(rows):
        above = lengths[row]
        # Without a match the value is the greater of above and left; the running maximum carries it along the row.
        lengths[row + 1, 1:] = np.maximum.accumulate(np.maximum(above[1:], above[:-1] + (right == left[row])))
    kept_left, kept_right = np.zeros(rows, dtype=np.bool_), np.zeros(columns, dtype=np.bool_)
    row, column = rows, columns
    while row and column:
        if lengths[row, column] == lengths[row - 1, column]:
            row -= 1
        elif lengths[row, column] == lengths[row, column - 1]:
            column -= 1
        else:
            row, column = row - 1, column - 1
            kept_left[row] = kept_right[column] = True
    return kept_left, kept_right
