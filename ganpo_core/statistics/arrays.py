"""Numbers come in as sequences and are computed with as float64 arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ganpo_core.errors import DataError

Floats = NDArray[np.float64]
Numbers = Sequence[float] | Floats


def as_floats(values: Numbers, name: str) -> Floats:
    """A one-dimensional float64 array. Raises DataError where it is empty or holds what is not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise DataError(f"{name}: expected a list of numbers, got shape {list(array.shape)}")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{name}: value {where} is {array[where]}; leave such rows out of every list alike")
    return array


def of_one_length(**arrays: Floats) -> int:
    """The common length. Raises DataError that names the lengths where they differ."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"lists of one length are needed; got {lengths}")
    return next(iter(lengths.values()))
