"""A prompt and a response as tokens, with the response's told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ganpo_core import DataError, Prompt, first_line
from ganpo_evaluation.texts import as_messages, plain_text

if TYPE_CHECKING:
    from ganpo_core.data import TokenPair


def tokenize_exchange(tokenizer: Any, prompt: Prompt, response: str) -> tuple[list[int], list[int]]:
    """(prompt, response) ids as in training: through the chat template where there is one, else text and its end."""
    if not tokenizer.chat_template:
        prompt_ids = tokenizer(plain_text(prompt))["input_ids"]
        if not prompt_ids:
            raise DataError("a prompt has no tokens: it is empty, and the tokenizer begins no text with a token of its own")
        if prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
            prompt_ids = prompt_ids[:-1]
        return prompt_ids, [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    turns = as_messages(prompt)
    opening = through_template(tokenizer, turns, add_generation_prompt=True)
    whole = through_template(tokenizer, [*turns, {"role": "assistant", "content": response}])
    rest = whole[len(opening) :] if whole.startswith(opening) else response
    prompt_ids, whole_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (opening, opening + rest))
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        return prompt_ids, whole_ids[len(prompt_ids) :]
    return prompt_ids, tokenizer(rest, add_special_tokens=False)["input_ids"]


def through_template(tokenizer: Any, turns: Sequence[Mapping[str, object]], **options: bool) -> str:
    """A conversation as text. Raises DataError for one that the chat template refuses: some know no system turn."""
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, **options))
    except Exception as error:  # a template is a program: on a strange row it may raise anything
        roles = ", ".join(str(turn["role"]) for turn in turns)
        raise DataError(f"the chat template refuses a conversation of {roles}: {first_line(error)}") from error


def token_pairs(
    tokenizer: Any, prompts: Sequence[Prompt], responses: Sequence[str], max_length: int | None
) -> list[TokenPair]:
    """Single responses as the data code holds them: on the chosen side; what is too long loses the prompt's beginning."""
    from ganpo_core.data import TokenPair

    found = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        prompt_ids, response_ids = tokenize_exchange(tokenizer, prompt, response)
        if max_length is not None and len(prompt_ids) + len(response_ids) > max_length:
            response_ids = response_ids[: max_length - 1]
            prompt_ids = prompt_ids[-(max_length - len(response_ids)) :]
        found.append(TokenPair(prompt_ids, response_ids, [], "judged", row + 1))
    return found
