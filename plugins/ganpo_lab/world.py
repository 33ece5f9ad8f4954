"""RecordWorld: what is asked, what an answer may look like, and the program that judges it.

A prompt asks for the values of one to three keys under a seed value; an answer is a small record,
`{ k1 : v3 , k4 : v2 }`. The right value of key k under seed s is (3 k + s mod 2) mod 10.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

NUM_KEYS, NUM_VALUES, MOST_KEYS, MAX_DEPTH = 8, 10, 3, 3
PAD, BOS, EOS, SEP = "<pad>", "<bos>", "<eos>", "<sep>"
KEYS = tuple(f"k{key}" for key in range(NUM_KEYS))
VALUES = tuple(f"v{value}" for value in range(NUM_VALUES))
SPECIAL = (PAD, BOS, EOS, SEP)
VOCABULARY = (*SPECIAL, "{", "}", "[", "]", ":", ",", *KEYS, *VALUES)
"""28 tokens; a token's id is its place here."""
IMAGE = "<image>"
"""One more where the world is seen: a cell of a picture."""

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Request:
    """What one prompt asks for."""

    keys: tuple[int, ...]
    """In the order of the prompt."""
    seed: int

    @property
    def prompt(self) -> str:
        """As text; tokens are separated by spaces."""
        return " ".join([BOS, *(KEYS[key] for key in self.keys), VALUES[self.seed], SEP])

    def target(self, key: int) -> int:
        """The right value of a key."""
        return (3 * key + self.seed % 2) % NUM_VALUES

    @property
    def split(self) -> Split:
        """By a hash of what is asked, whatever the order: 7.5 % dev, 7.5 % test, the rest train."""
        digest = sha256(repr((tuple(sorted(self.keys)), self.seed)).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return "dev" if place < 0.075 else "test" if place < 0.15 else "train"


@dataclass(frozen=True)
class Verdict:
    """The oracle's judgement of one answer."""

    reward: float
    """0 if invalid, else 1 + 2 * coverage - 0.5 * spurious."""
    valid: bool
    """The answer follows the grammar and ends."""
    strict: bool
    """Valid, and its top-level keys are exactly those asked for."""
    loose: bool
    """Valid, and they include those asked for."""


def combinations() -> list[Request]:
    """All 920 requests: every set of one to three keys under every seed."""
    sets = [keys for count in range(1, MOST_KEYS + 1) for keys in itertools.combinations(range(NUM_KEYS), count)]
    return [Request(keys, seed) for keys in sets for seed in range(NUM_VALUES)]


def draw_requests(split: Split, count: int, draw: random.Random) -> list[Request]:
    """Requests of a split with their keys in random order, drawn with replacement."""
    known = [request for request in combinations() if request.split == split]
    picked = [draw.choice(known) for _ in range(count)]
    return [Request(tuple(draw.sample(request.keys, len(request.keys))), request.seed) for request in picked]


def judge(request: Request, tokens: Sequence[str]) -> Verdict:
    """The oracle. `tokens` are the answer's, up to and with the end of sequence; anything after it is not read."""
    ends = EOS in tokens
    record = parse(tokens[: tokens.index(EOS)]) if ends else None
    if record is None:
        return Verdict(0.0, False, False, False)
    first: dict[int, int] = {}
    for key, value in record:
        first.setdefault(key, value)
    asked = set(request.keys)
    coverage = sum(first.get(key) == request.target(key) for key in asked) / len(asked)
    spurious = min(3, sum(key not in asked for key, _ in record)) / 3
    keys = sorted(key for key, _ in record)
    return Verdict(1 + 2 * coverage - 0.5 * spurious, True, keys == sorted(asked), asked <= set(keys))


def parse(tokens: Sequence[str]) -> list[tuple[int, int]] | None:
    """The top-level (key, first leaf of its value) pairs of a record, or None if it breaks the grammar."""
    try:
        end, pairs = _object(tokens, 0, 1)
    except (IndexError, ValueError):
        return None
    return pairs if end == len(tokens) else None


def _object(tokens: Sequence[str], at: int, depth: int) -> tuple[int, list[tuple[int, int]]]:
    """object := { pair (, pair)* }, pair := key : value; at most MAX_DEPTH deep."""
    if tokens[at] != "{" or depth > MAX_DEPTH:
        raise ValueError("no object")
    pairs = []
    while True:
        key = KEYS.index(tokens[at + 1])
        if tokens[at + 2] != ":":
            raise ValueError("no colon")
        at, leaf = _value(tokens, at + 3, depth)
        pairs.append((key, leaf))
        if tokens[at] == "}":
            return at + 1, pairs
        if tokens[at] != ",":
            raise ValueError("no comma")


def _value(tokens: Sequence[str], at: int, depth: int) -> tuple[int, int]:
    """value := digit | [ digit (, digit)* ] | object; returns where it ends and its first leaf."""
    if tokens[at] == "{":
        end, pairs = _object(tokens, at, depth + 1)
        return end, pairs[0][1]
    if tokens[at] != "[":
        return at + 1, VALUES.index(tokens[at])
    first = VALUES.index(tokens[at + 1])
    at += 2
    while tokens[at] == ",":
        VALUES.index(tokens[at + 1])
        at += 2
    if tokens[at] != "]":
        raise ValueError("no end of list")
    return at + 1, first
