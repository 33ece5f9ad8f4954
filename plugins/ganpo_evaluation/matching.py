"""The temperature at which a policy is as random as its reference is at 1, on the same sequences.

Shape suffixes: N rows, S positions, M response tokens, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganpo_core import DataError
from ganpo_core.entropy import COLDEST, HOTTEST, mean_entropy, temperature_of
from ganpo_evaluation.language_model import LanguageModel

MOST_KEPT = 2**27
"""Logits kept in memory (half a GiB); beyond, the model is run again for every temperature that is tried."""
Sequences = list[tuple[list[int], list[int]]]
EntropyAt = Callable[[float], float]


@dataclass(frozen=True)
class Matched:
    """What entropy matching found."""

    temperature: float
    entropy: float
    """The policy's at T = 1, nats per token."""
    reference_entropy: float
    sequences: int


def read_sequences(data: Path, tokenizer: Any, count: int, max_length: int) -> Sequences:
    """(prompt, chosen response) token ids of the first rows of a preference file, as training tokenizes them."""
    from ganpo_core.config import DataConfig
    from ganpo_core.data import load_pairs

    pairs, _ = load_pairs(DataConfig(path=str(data.resolve()), max_length=max_length), tokenizer)
    found = []
    for index in range(min(count, len(pairs))):
        pair = pairs[index]
        response = pair.chosen or pair.rejected
        found.append((list(map(int, pair.prompt)), list(map(int, response))))
    if not found:
        raise DataError(f"{data}: no sequences to measure entropy on")
    return found


def match_entropy(policy: LanguageModel, reference: LanguageModel, sequences: Sequences, batch_size: int = 8) -> Matched:
    """The policy's temperature, from teacher-forced distributions at the response tokens. Raises DataError for none."""
    theirs, mine = entropy_of(reference, sequences, batch_size)(1.0), entropy_of(policy, sequences, batch_size)
    found = matched_at(mine, theirs)
    if found is None:
        raise DataError(f"{policy.name}: {unmatched(theirs, 1.0)}, the entropy of {reference.name} at 1")
    return Matched(found, mine(1.0), theirs, len(sequences))


def matched_at(entropy_at: EntropyAt, entropy: float, near: float = 1.0) -> float | None:
    """The temperature at which a model has an entropy, looked for around `near`; None where none there has it."""
    found = temperature_of(entropy_at, entropy, near)
    return found if COLDEST * near < found < HOTTEST * near else None


def unmatched(entropy: float, near: float) -> str:
    """What to say where there is no such temperature."""
    return f"at no temperature from {COLDEST * near:g} to {HOTTEST * near:g} is it at {entropy:.3g} nats a token"


def entropy_of(model: LanguageModel, sequences: Sequences, batch_size: int = 8) -> EntropyAt:
    """Mean token entropy as a function of temperature, in nats; 0 at T = 0, where the likeliest token is certain."""
    num_logits = sum(len(response) for _, response in sequences) * model.model.config.get_text_config().vocab_size
    kept = list(_logits(model, sequences, batch_size)) if num_logits <= MOST_KEPT else None

    def entropy_at(temperature: float) -> float:
        if temperature == 0:
            return 0.0
        total, count = 0.0, 0
        for logits_MV in _logits(model, sequences, batch_size) if kept is None else kept:
            total += mean_entropy(logits_MV, temperature) * len(logits_MV)
            count += len(logits_MV)
        return total / count

    return entropy_at


def _logits(model: LanguageModel, sequences: Sequences, batch_size: int) -> Iterator[Any]:
    """[M, V] of each batch: what predicts the response tokens."""
    import torch

    device = next(model.model.parameters()).device
    for start in range(0, len(sequences), batch_size):
        batch: Sequence[tuple[list[int], list[int]]] = sequences[start : start + batch_size]
        rows = [prompt + response for prompt, response in batch]
        width = max(map(len, rows))
        ids_NS = torch.tensor([row + [model.tokenizer.pad_token_id] * (width - len(row)) for row in rows], device=device)
        place_S = torch.arange(width, device=device)
        length_N = torch.tensor([[len(row)] for row in rows], device=device)
        first_N = torch.tensor([[len(prompt)] for prompt, _ in batch], device=device)
        valid_NS = place_S < length_N
        with torch.no_grad():
            logits_NSV = model.model(input_ids=ids_NS, attention_mask=valid_NS.long()).logits
        yield logits_NSV[:, :-1][(valid_NS & (place_S >= first_N))[:, 1:]].float()
