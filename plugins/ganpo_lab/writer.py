"""An imperfect writer: the data that the reference learns from."""

from __future__ import annotations

import random

from ganpo_lab.world import EOS, KEYS, NUM_KEYS, NUM_VALUES, VALUES, VOCABULARY, Request

OMITS, RIGHT, EXTRA, LIST, NESTED, CORRUPTS = 0.10, 0.75, 0.35, 0.15, 0.10, 0.06
"""A key is left out; a value is right; another pair follows; a value is a list, or a record; one token is spoilt."""


def write(request: Request, draw: random.Random) -> list[str]:
    """One answer's tokens, the end of sequence included."""
    pairs = [(key, _value_of(request, key, draw)) for key in request.keys if draw.random() >= OMITS]
    while draw.random() < EXTRA or not pairs:
        pairs.append((draw.randrange(NUM_KEYS), draw.randrange(NUM_VALUES)))
    tokens = ["{"]
    for index, (key, value) in enumerate(pairs):
        tokens += [*([","] if index else []), KEYS[key], ":", *_written(value, draw)]
    tokens.append("}")
    if draw.random() < CORRUPTS:
        tokens[draw.randrange(len(tokens))] = draw.choice(VOCABULARY[4:])
    return [*tokens, EOS]


def _value_of(request: Request, key: int, draw: random.Random) -> int:
    right = request.target(key)
    if draw.random() < RIGHT:
        return right
    return draw.choice([value for value in range(NUM_VALUES) if value != right])


def _written(value: int, draw: random.Random) -> list[str]:
    form = draw.random()
    if form < LIST:
        more = [[",", VALUES[draw.randrange(NUM_VALUES)]] for _ in range(draw.randrange(3))]
        return ["[", VALUES[value], *(token for part in more for token in part), "]"]
    if form < LIST + NESTED:
        return ["{", KEYS[draw.randrange(NUM_KEYS)], ":", VALUES[value], "}"]
    return [VALUES[value]]
