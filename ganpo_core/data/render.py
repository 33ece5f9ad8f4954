"""Pairs as the exact text that is tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.data.formats import ChatPair, TextPair
from ganpo_core.data.messages import Message, text_of
from ganpo_core.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

    from ganpo_core.data.tokenize import TokenizedPair


@dataclass(frozen=True)
class Rendered:
    """A prompt, and the prompt with each response after it."""

    prompt: str
    chosen: str
    rejected: str
    is_chat: bool
    """True where a template wrote the special tokens, False where the tokenizer adds its own."""
    notes: tuple[str, ...] = ()
    """What is worth counting: `special_token_in_content`."""
    tokenized: TokenizedPair | None = None
    """Its token ids, where a processor has made them already."""


def render_text(pair: TextPair, special_texts: Sequence[str]) -> Rendered:
    """A pair in standard format. Raises RowError for text that cannot be tokenized or says nothing."""
    for column, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        _check_says_something(response, column, special_texts)
    # A text prompt is often a rendered conversation, special tokens and all; inside a response they are noted.
    notes = _notes([pair.chosen, pair.rejected], special_texts)
    sides = (pair.prompt, pair.prompt + pair.chosen, pair.prompt + pair.rejected)
    return _readable(Rendered(*sides, is_chat=False, notes=notes))


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    pair: ChatPair,
    special_texts: Sequence[str],
    where: str,
    writer: ProcessorMixin | None = None,
) -> Rendered:
    """A pair in conversational format, through the chat template of the tokenizer, or of the `writer` in its place.

    Raises RowError for a flawed row; DataError for a tokenizer without a template, or with one that renders the
    prompt differently once an answer follows it.
    """
    if not (writer or tokenizer).chat_template:
        raise DataError(
            f"{where}: the rows are conversations, and the tokenizer has no chat template. Use the tokenizer of an "
            "instruction-tuned model, add a chat_template.jinja beside it, or give rows of plain text."
        )
    for column, response in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not response[-1].get("tool_calls"):
            _check_says_something(text_of(response[-1]["content"]), column, special_texts)
    prompt = _apply(writer or tokenizer, pair, pair.prompt, ask=True)
    chosen = _apply(writer or tokenizer, pair, pair.prompt + pair.chosen, ask=False)
    rejected = _apply(writer or tokenizer, pair, pair.prompt + pair.rejected, ask=False)
    written = [text_of(message["content"]) for message in (*pair.prompt, *pair.chosen, *pair.rejected)]
    notes = _notes(written, special_texts)
    rendered = _readable(Rendered(prompt, chosen, rejected, is_chat=True, notes=notes))
    for column, side in (("chosen", chosen), ("rejected", rejected)):
        if not side.startswith(prompt):
            raise DataError(_mismatch(tokenizer, prompt, side, column, where))
    return rendered


def _apply(
    writer: PreTrainedTokenizerBase | ProcessorMixin, pair: ChatPair, messages: list[Message], ask: bool
) -> str:
    try:
        text = writer.apply_chat_template(
            messages, tools=pair.tools, tokenize=False, add_generation_prompt=ask, **pair.template_options
        )
    except Exception as error:  # a template is a program: on a strange row it may raise anything
        reason = str(error) or type(error).__name__
        raise RowError(Flaw.REFUSED_BY_TEMPLATE, f"the chat template refuses it: {reason}") from error
    return str(text)


def _check_says_something(response: str, column: str, special_texts: Sequence[str]) -> None:
    for special in special_texts:
        response = response.replace(special, "")
    if not response.strip():
        raise RowError(Flaw.ONLY_SPECIAL_TOKENS, f"`{column}` holds special tokens and nothing else")


def _notes(texts: Sequence[str], special_texts: Sequence[str]) -> tuple[str, ...]:
    """Content that writes a special token itself, other than at its end: it becomes that token, as a turn's end would."""
    firsts = {special[0] for special in special_texts if special}
    for text in texts:
        # Most text holds not even the first character of a special token, of which there can be hundreds.
        if not any(first in text for first in firsts):
            continue
        said = text.rstrip()
        if any(special in said.removesuffix(special) for special in special_texts if special):
            return ("special_token_in_content",)
    return ()


def _readable(rendered: Rendered) -> Rendered:
    if "\0" in rendered.chosen or "\0" in rendered.rejected:
        raise RowError(Flaw.NUL_CHARACTER, "the text holds a NUL character")
    try:
        (rendered.chosen + rendered.rejected).encode()
    except UnicodeEncodeError as error:
        raise RowError(Flaw.LONE_SURROGATE, "the text holds half of a surrogate pair: it is not Unicode") from error
    return rendered


def _mismatch(tokenizer: PreTrainedTokenizerBase, prompt: str, side: str, column: str, where: str) -> str:
    """What the two renders hold around their first different token."""
    alone, followed = tokenizer.tokenize(prompt), tokenizer.tokenize(side)
    first = next((i for i, (left, right) in enumerate(zip_longest(alone, followed)) if left != right), len(alone))
    window = slice(max(first - 4, 0), first + 4)
    return (
        f"{where}: the chat template renders the prompt differently once the {column} response follows it: "
        f"the prompt alone has {alone[window]}, the conversation has {followed[window]} (tokens {window.start} to "
        f"{window.stop - 1}). The response's tokens cannot be told apart; use a template whose generation prompt is "
        "how an assistant turn begins."
    )
