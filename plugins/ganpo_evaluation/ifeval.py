"""IFEval (arXiv 2311.07911): whether a response follows instructions that a program can check, by lm-eval's checkers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ganpo_core import DataError, GanpoError, Judge, Prompt, Scorer
from ganpo_evaluation.texts import prompt_key, read_rows, text_of

SENTENCES = Path(__file__).parent / "punkt"
"""Abbreviations for nltk's sentence splitter, in its own format: nothing is fetched at run time."""
SEED = 0
"""Of langdetect and of the checkers, which draw at random."""


@dataclass(frozen=True)
class Followed:
    """Which of a prompt's instructions a response follows."""

    strict: tuple[bool, ...]
    """As it stands."""
    loose: tuple[bool, ...]
    """With its first or last line, or its asterisks, taken away."""


@dataclass(frozen=True)
class IFEval(Judge):
    """Whether a response follows its prompt's instructions, by the checkers of lm-eval (arXiv 2311.07911)."""

    data: str
    """IFEval's `input_data.jsonl`: rows of `prompt`, `instruction_id_list` and `kwargs`."""
    level: Literal["prompt", "instruction"] = "prompt"
    """1 where every instruction of the prompt is followed, or the share of those that are."""
    mode: Literal["strict", "loose"] = "strict"
    """The response as it stands, or also without its first line, last line or asterisks."""

    def build(self) -> Scorer:
        """The scorer; prompts are found in `data` by their text."""
        follows = load_checkers(Path(self.data))

        def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
            found = [follows(text_of(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]
            flags = [each.strict if self.mode == "strict" else each.loose for each in found]
            return [float(all(own)) if self.level == "prompt" else sum(own) / len(own) for own in flags]

        return score

    def samples(self) -> Sequence[tuple[Prompt, str]]:
        """The first prompts of the data, answered badly."""
        return [(str(row["prompt"]), "No.") for row in read_rows(Path(self.data))[:4]]


def load_checkers(data: Path) -> Callable[[str, str], Followed]:
    """A function (prompt, response) -> Followed. Raises GanpoError where lm-eval is not installed."""
    strict, loose, example = _lm_eval()
    known = {prompt_key(str(row["prompt"])): row for row in read_rows(data, needed=("prompt", "instruction_id_list", "kwargs"))}

    def follows(prompt: str, response: str) -> Followed:
        row = known.get(prompt_key(prompt))
        if row is None:
            raise DataError(f"{data}: no instructions for the prompt {prompt[:60]!r}; prompts are matched by their text")
        given = example(row.get("key", 0), row["instruction_id_list"], row["prompt"], row["kwargs"])
        with _own_randomness():
            one = strict(given, response)
        with _own_randomness():
            other = loose(given, response)
        return Followed(tuple(one.follow_instruction_list), tuple(other.follow_instruction_list))

    return follows


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Where a row leaves a number out, lm-eval's checkers draw it: the same one for the same row, whatever came before."""
    state = random.getstate()
    random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(state)


def accuracies(found: Sequence[Followed]) -> Mapping[str, list[float]]:
    """The four measures of IFEval, each as 0 or 1 for every prompt or every instruction."""
    return {
        "prompt_strict": [float(all(each.strict)) for each in found],
        "instruction_strict": [float(flag) for each in found for flag in each.strict],
        "prompt_loose": [float(all(each.loose)) for each in found],
        "instruction_loose": [float(flag) for each in found for flag in each.loose],
    }


def _lm_eval() -> tuple[Any, Any, Any]:
    try:
        import langdetect
        import nltk

        # Last, so that nltk's own punkt_tab is used where it is installed. It must be there before lm-eval is imported,
        # which looks for it and would fetch it.
        if str(SENTENCES) not in nltk.data.path:
            nltk.data.path.append(str(SENTENCES))
        from lm_eval.tasks.ifeval import utils
    except ImportError as error:
        raise GanpoError(
            f"IFEval's checkers need lm-eval ({error}); install it with `pip install 'ganpo[evaluation]'`"
        ) from error
    langdetect.DetectorFactory.seed = SEED
    return utils.test_instruction_following_strict, utils.test_instruction_following_loose, utils.InputExample
