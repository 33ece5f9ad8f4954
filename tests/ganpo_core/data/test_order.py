"""Which pair comes when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ganpo_core.data import PairDataset, PairOrder, TokenPair


def test_an_epoch_is_a_permutation_and_the_next_one_another():
    order = PairOrder([60, 40], [1.0, 1.0], seed=0)
    first, second = order.indices(0, 100), order.indices(100, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second
    assert first != list(range(100))


def test_the_order_is_a_function_of_the_seed_alone():
    assert PairOrder([50], [1.0], seed=3).indices(0, 120) == PairOrder([50], [1.0], seed=3).indices(0, 120)
    assert PairOrder([50], [1.0], seed=3).indices(0, 50) != PairOrder([50], [1.0], seed=4).indices(0, 50)


def test_one_integer_resumes_anywhere():
    """7 pairs per epoch: 30 indices cross four epoch boundaries, in whatever portions they are asked for."""
    whole = PairOrder([4, 3], [1.0, 1.0], seed=1).indices(0, 30)
    order = PairOrder([4, 3], [1.0, 1.0], seed=1)
    assert order.indices(5, 17) == whole[5:22]
    assert [index for start in range(0, 30, 3) for index in order.indices(start, 3)] == whole
    assert order.indices(12, 0) == []


def test_the_global_generators_are_neither_read_nor_moved():
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    order = PairOrder([20], [0.5], seed=0).indices(0, 50)
    assert (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    np.random.seed(1)
    torch.manual_seed(1)
    assert PairOrder([20], [0.5], seed=0).indices(0, 50) == order


def test_weights_repeat_and_thin_sources():
    """10 pairs twice, 8 pairs by a quarter, 4 pairs one and a half times: 20 + 2 + 6 = 28 pairs per epoch."""
    order = PairOrder([10, 8, 4], [2.0, 0.25, 1.5], seed=0)
    assert order.pairs_per_epoch == 28
    counts = Counter(order.indices(0, 28))
    assert all(counts[index] == 2 for index in range(10))
    assert sorted(counts[index] for index in range(10, 18)) == [0] * 6 + [1] * 2
    assert sorted(counts[index] for index in range(18, 22)) == [1, 1, 2, 2]


def test_a_quarter_is_another_quarter_each_epoch_until_all_are_used():
    """4 epochs of 2 of 8 pairs: each pair once; the next 4 epochs likewise, in another order."""
    order = PairOrder([8], [0.25], seed=0)
    assert sorted(order.indices(0, 8)) == list(range(8))
    assert sorted(order.indices(8, 8)) == list(range(8))
    assert order.indices(0, 8) != order.indices(8, 8)


def test_a_part_never_repeats_a_pair_within_an_epoch():
    order = PairOrder([5], [0.6], seed=0)
    assert all(len(set(order.indices(3 * epoch, 3))) == 3 for epoch in range(20))


def test_a_dataset_brings_its_counts_and_weights():
    """Sources of 2 and 1 pairs, the second three times: 5 pairs per epoch."""
    pairs = [TokenPair((1,), (2,), (3,), source, row) for row, source in enumerate("aab")]
    order = PairOrder.of(PairDataset(pairs, {"b": 3.0}), seed=0)
    assert sorted(order.indices(0, 5)) == [0, 1, 2, 2, 2]


def test_no_pairs_at_all_are_refused():
    with pytest.raises(ValueError, match="no pair"):
        PairOrder([3], [0.1], seed=0)
