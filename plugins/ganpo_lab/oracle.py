"""RecordWorld's oracle as a judge, so that every evaluation command works in the lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ganpo_core import DataError, Judge, Prompt, Scorer
from ganpo_lab.world import BOS, EOS, KEYS, SEP, VALUES, Request, judge


@dataclass(frozen=True)
class Oracle(Judge):
    """The program that judges RecordWorld's answers; a response is read up to its end, which may be left out."""

    measure: Literal["reward", "valid", "strict", "loose"] = "reward"
    """The reward in [0, 3], or one of the checks as 0 or 1."""

    def build(self) -> Scorer:
        """Nothing is loaded. Raises DataError for a prompt that is not RecordWorld's."""

        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            return [
                float(getattr(judge(read_request(prompt), _ended(response.split())), self.measure))
                for prompt, response in zip(prompts, responses, strict=True)
            ]

        return score

    def samples(self) -> Sequence[tuple[Prompt, str]]:
        """A right answer, one with a key too many, and one that breaks the grammar."""
        prompt = f"{BOS} k1 v2 {SEP}"
        return ((prompt, "{ k1 : v3 }"), (prompt, "{ k1 : v3 , k0 : v0 }"), (prompt, "{ k1 v3"))


def read_request(prompt: Prompt) -> Request:
    """What a prompt asks for."""
    words = prompt.split() if isinstance(prompt, str) else []
    keys, seed = words[1:-2], words[-2] if len(words) > 3 else ""
    if not keys or words[0] != BOS or words[-1] != SEP or seed not in VALUES or not set(keys) <= set(KEYS):
        raise DataError(f"judge lab_oracle: {prompt!r} is no prompt of RecordWorld, such as '{BOS} k1 v2 {SEP}'")
    return Request(tuple(KEYS.index(key) for key in keys), VALUES.index(seed))


def _ended(tokens: list[str]) -> list[str]:
    return tokens if EOS in tokens else [*tokens, EOS]
