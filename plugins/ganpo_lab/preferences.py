"""Preference pairs: two answers of the reference, compared by a noisy annotator who likes length."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ganpo_lab.reference import IDENTITY, is_made_from
from ganpo_lab.sampling import Look, blind, gumbel_noise, sample
from ganpo_lab.world import EOS, KEYS, SPECIAL, VALUES, Request, Split, draw_requests, judge

FILES: dict[Split, str] = {"train": "train.jsonl", "dev": "dev.jsonl"}


@dataclass(frozen=True)
class PreferenceRecipe:
    """How pairs are drawn and labelled."""

    seed: int = 0
    num_prompts: int = 3000
    num_held_out: int = 400
    noise: float = 0.5
    """Of the annotator: reward differences are divided by it."""
    length_bias: float = 0.05
    """Reward that the annotator sees in one more token."""


def make_preferences(
    recipe: PreferenceRecipe, reference: Path, folder: Path, load: Callable[[Path], Any]
) -> dict[str, float]:
    """Write the pairs unless they are there already; returns how many, and how often the annotator is right."""
    identity: dict[str, object] = {
        **asdict(recipe), "reference": json.loads((reference / IDENTITY).read_text(encoding="utf-8"))
    }
    if not is_made_from(folder, identity):
        folder.mkdir(parents=True, exist_ok=True)
        model = load(reference)
        counts: dict[Split, int] = {"train": recipe.num_prompts, "dev": recipe.num_held_out}
        for split, count in counts.items():
            draw = random.Random(f"{recipe.seed}-{split}")
            requests = draw_requests(split, count, draw)
            text = "".join(json.dumps(row) + "\n" for _, row in draw_pairs(recipe, model, requests, draw))
            (folder / FILES[split]).write_text(text, encoding="utf-8")
        (folder / IDENTITY).write_text(json.dumps(identity, indent=1), encoding="utf-8")
    return agreement(folder)


def agreement(folder: Path) -> dict[str, float]:
    """How many pairs there are to train on, and how often the annotator is right."""
    rows = [json.loads(line) for line in (folder / FILES["train"]).read_text(encoding="utf-8").splitlines()]
    told_apart = [row["oracle_agrees"] for row in rows if row["oracle_agrees"] is not None]
    return {"pairs": len(rows), "agreement": sum(told_apart) / len(told_apart) if told_apart else math.nan}


def draw_pairs(
    recipe: PreferenceRecipe, model: Any, requests: Sequence[Request], draw: random.Random, look: Look = blind
) -> list[tuple[Request, dict[str, Any]]]:
    """Each request with its row in TRL's standard format; identical answers and empty ones make no pair."""
    seeds = (2 * recipe.seed + 1_000, 2 * recipe.seed + 1_001)
    first, second = (sample(model, requests, 1.0, gumbel_noise(len(requests), seed), look) for seed in seeds)
    rows = []
    for request, one, two in zip(requests, first, second, strict=True):
        if one == two or not _says_something(one) or not _says_something(two):
            continue
        gap = judge(request, one).reward - judge(request, two).reward
        prefers_one = draw.random() < preference(recipe, gap, len(one) - len(two))
        chosen, rejected = (one, two) if prefers_one else (two, one)
        row = {
            "prompt": request.prompt,
            "chosen": _text(chosen),
            "rejected": _text(rejected),
            "oracle_agrees": None if gap == 0 else (gap > 0) == prefers_one,
        }
        rows.append((request, row))
    return rows


def preference(recipe: PreferenceRecipe, reward_gap: float, length_gap: int) -> float:
    """The probability that the annotator prefers the first of two answers."""
    return 1 / (1 + math.exp(-(reward_gap / recipe.noise + recipe.length_bias * length_gap)))


def held_out(folder: Path) -> list[tuple[Request, list[str]]]:
    """The chosen answers to held-out prompts: the sequences on which entropy and latents are compared."""
    rows = [json.loads(line) for line in (folder / FILES["dev"]).read_text(encoding="utf-8").splitlines()]
    found = []
    for row in rows:
        _, *keys, seed, _ = row["prompt"].split()
        request = Request(tuple(KEYS.index(key) for key in keys), VALUES.index(seed))
        found.append((request, [*row["chosen"].split(), EOS]))
    return found


def _says_something(tokens: list[str]) -> bool:
    return any(token not in SPECIAL for token in tokens)


def _text(tokens: list[str]) -> str:
    """An answer as a response's text; the end of sequence is added when it is tokenized."""
    return " " + " ".join(token for token in tokens if token != EOS)
