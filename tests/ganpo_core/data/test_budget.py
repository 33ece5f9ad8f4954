"""Micro-batches by tokens."""

from __future__ import annotations

import random

import pytest

from ganpo_core.data import Packing, TokenPair, collate, group_by_tokens, num_tokens, split_groups

LENGTHS = [(2, 3, 4), (1, 1, 1), (5, 5, 10), (3, 2, 2), (1, 8, 1)]


@pytest.mark.parametrize("packing", ["padded", "packed", "shared"])
@pytest.mark.parametrize("lengths", [LENGTHS, [(2, 3, 0), (4, 1, 0)]], ids=["pairs", "singles"])
def test_tokens_are_those_that_the_model_is_given(packing: Packing, lengths: list[tuple[int, int, int]]) -> None:
    pairs = [TokenPair([1] * p, [1] * c, [1] * r, "a", 1) for p, c, r in lengths]
    assert num_tokens(lengths, packing) == collate(pairs, 0, packing).layout.input_ids.numel()


def test_groups_by_hand() -> None:
    """Shared rows of 9, 3, 20, 7 and 10 tokens, at most 20: [20], [10 + 9], [7 + 3]."""
    assert group_by_tokens(LENGTHS, "shared", 20) == [[2], [0, 4], [1, 3]]


@pytest.mark.parametrize("packing", ["padded", "packed", "shared"])
def test_every_pair_is_in_one_group_within_the_budget_unless_it_is_alone(packing: Packing) -> None:
    draw = random.Random(0)
    for _ in range(50):
        lengths = [
            (draw.randint(1, 30), draw.randint(1, 30), draw.randint(1, 30)) for _ in range(draw.randint(1, 20))
        ]
        budget = draw.randint(20, 400)
        groups = group_by_tokens(lengths, packing, budget)
        assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
        assert all(len(g) == 1 or num_tokens([lengths[i] for i in g], packing) <= budget for g in groups)
        assert groups == group_by_tokens(lengths, packing, budget)


def test_groups_are_halved_until_there_are_enough() -> None:
    split = split_groups([[0, 1, 2, 3], [4]], LENGTHS, "shared", 4)
    assert sorted(index for group in split for index in group) == [0, 1, 2, 3, 4] and len(split) == 4
    assert split_groups([[0], [1]], LENGTHS, "shared", 2) == [[0], [1]]
