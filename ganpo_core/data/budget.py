"""The pairs of a step in micro-batches of so many tokens: a function of their lengths alone."""

from __future__ import annotations

from collections.abc import Sequence

from ganpo_core.data.layout import Packing

Lengths = tuple[int, int, int]
"""Tokens of a prompt, its chosen and its rejected response; 0 for the empty side of unpaired data."""


def num_tokens(lengths: Sequence[Lengths], packing: Packing) -> int:
    """What the model is given of these pairs, padding included."""
    if packing == "shared":
        return sum(map(sum, lengths))
    rows = [prompt + response for prompt, *responses in lengths for response in responses if response]
    return sum(rows) if packing == "packed" else len(rows) * max(rows, default=0)


def group_by_tokens(lengths: Sequence[Lengths], packing: Packing, budget: int) -> list[list[int]]:
    """Which of the pairs, by index, go together so that each group has at most `budget` tokens.

    Longest first, each into the first group with room: at most about a fifth more groups than the fewest possible. A
    pair that exceeds the budget by itself is a group by itself.
    """
    groups: list[list[int]] = []
    longest_first = sorted(range(len(lengths)), key=lambda index: (-num_tokens([lengths[index]], packing), index))
    for index in longest_first:
        for group in groups:
            if num_tokens([lengths[other] for other in (*group, index)], packing) <= budget:
                group.append(index)
                break
        else:
            groups.append([index])
    return [sorted(group) for group in groups]


def split_groups(
    groups: Sequence[Sequence[int]], lengths: Sequence[Lengths], packing: Packing, count: int
) -> list[list[int]]:
    """The groups, the largest halved until there are `count`, as processes that step together must have equally many."""
    found = [list(group) for group in groups]
    while len(found) < count:
        divisible = [group for group in found if len(group) > 1]
        largest = max(divisible, key=lambda group: num_tokens([lengths[index] for index in group], packing))
        found.remove(largest)
        found += [largest[::2], largest[1::2]]
    return found
