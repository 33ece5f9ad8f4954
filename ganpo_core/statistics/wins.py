"""Pairwise wins; a tie counts one half."""

from __future__ import annotations

import numpy as np

from ganpo_core.statistics.arrays import Floats, Numbers, as_floats, of_one_length


def win_shares(mine: Numbers, theirs: Numbers) -> Floats:
    """1 where a score of mine is above the other's on the same prompt, 0 where it is below, 0.5 where they are equal."""
    mine_N, theirs_N = as_floats(mine, "mine"), as_floats(theirs, "theirs")
    of_one_length(mine=mine_N, theirs=theirs_N)
    return (np.sign(mine_N - theirs_N) + 1) / 2


def win_rate(mine: Numbers, theirs: Numbers) -> float:
    """The mean of `win_shares`."""
    return float(win_shares(mine, theirs).mean())
