"""Every row format that preference data comes in, read into a prompt and two responses.

Standard (text) or conversational (messages), with an explicit or an implicit prompt, as TRL takes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.data.messages import Message, is_blank, read_side, without_nulls

Row = Mapping[str, object]

OWN_TEMPLATE_OPTIONS = frozenset(
    {"conversation", "tools", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict"}
    | {"return_tensors", "return_assistant_tokens_mask", "padding", "truncation", "max_length", "tokenizer_kwargs"}
)
"""Arguments of `apply_chat_template` that decide the shape of the result: a row cannot set them."""


@dataclass(frozen=True)
class TextPair:
    """A pair in standard format."""

    prompt: str
    chosen: str
    rejected: str
    label: bool | None = None
    """For unpaired data: whether the response, which then stands on both sides, is desirable."""
    preference: float | None = None
    """The probability that the chosen response is the better one."""
    images: tuple[object, ...] = ()
    """Of the prompt, in order: as the row has them, or stored."""


@dataclass(frozen=True)
class ChatPair:
    """A pair in conversational format; the responses do not repeat the prompt's messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[object] | None = None
    template_options: Mapping[str, object] = field(default_factory=dict)
    label: bool | None = None
    """As in TextPair."""
    preference: float | None = None
    """As in TextPair."""
    images: tuple[object, ...] = ()
    """As in TextPair; each stands for one part of type `image` in the prompt's messages."""


def parse_row(row: Row, with_images: bool = False) -> TextPair | ChatPair:
    """The pair (or the single response) that a row holds. Raises RowError; unknown columns are ignored.

    `with_images` keeps images in messages, which are a flaw otherwise; columns of images are read by `place_images`.
    """
    if "completion" in row and "chosen" not in row:
        return _single_response(row, with_images)
    return replace(_pair(row, with_images), preference=_read_preference(row.get("preference")))


def _pair(row: Row, with_images: bool) -> TextPair | ChatPair:
    chosen, rejected = (read_side(row.get(column), column, with_images) for column in ("chosen", "rejected"))
    prompt = read_side(row["prompt"], "prompt", with_images) if "prompt" in row else None
    if isinstance(chosen, str) and isinstance(rejected, str) and not isinstance(prompt, list):
        return _text_pair(prompt, chosen, rejected)
    return _chat_pair(row, prompt, _as_messages(chosen), _as_messages(rejected))


def shared_length(chosen: Sequence[object], rejected: Sequence[object]) -> int:
    """The length of the implicit prompt: the longest common prefix that leaves something of both responses.

    Like TRL's `extract_prompt`, a space before the first difference belongs to the responses.
    """
    shorter = min(len(chosen), len(rejected))
    length = next((i for i in range(shorter) if chosen[i] != rejected[i]), max(shorter - 1, 0))
    return length - 1 if length and chosen[length - 1] == " " else length


def _single_response(row: Row, with_images: bool) -> TextPair | ChatPair:
    """TRL's unpaired format: a prompt, a completion and a label."""
    label = _read_label(row.get("label"))
    prompt, completion = (read_side(row.get(column), column, with_images) for column in ("prompt", "completion"))
    if isinstance(prompt, str) and isinstance(completion, str):
        if not prompt.strip():
            raise RowError(Flaw.EMPTY_PROMPT, "`prompt` is empty or whitespace")
        if not completion.strip():
            raise RowError(Flaw.EMPTY_RESPONSE, "`completion` is empty or whitespace")
        return TextPair(prompt, completion, completion, label)
    asked = [_message("user", prompt)] if isinstance(prompt, str) else prompt
    response = _without_prompt(asked, _as_messages(completion))
    if all(is_blank(message) for message in asked):
        raise RowError(Flaw.EMPTY_PROMPT, "there is no message before the completion, or none with content")
    _check_response(response, "completion")
    return ChatPair(asked, response, response, _read_tools(row.get("tools")), _read_options(row), label)


def _read_label(value: object) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).strip().lower()
    if not isinstance(value, bool | int | str) or text not in known:
        raise RowError(Flaw.BAD_LABEL, f"`label` says whether the completion is desirable: true or false, not {value!r}")
    return known[text]


def _read_preference(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        chance = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        chance = math.nan
    if isinstance(value, bool) or not 0 <= chance <= 1:
        raise RowError(Flaw.BAD_PREFERENCE, f"`preference` is a probability between 0 and 1, not {value!r}")
    return chance


def _text_pair(prompt: str | None, chosen: str, rejected: str) -> TextPair:
    _require_difference(chosen, rejected)
    for column, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.strip():
            raise RowError(Flaw.EMPTY_RESPONSE, f"`{column}` is empty or whitespace")
    if prompt is None:
        length = shared_length(chosen, rejected)
        prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
    if not prompt.strip():
        raise RowError(Flaw.EMPTY_PROMPT, "there is no prompt, and the responses do not begin alike")
    if not chosen.strip() or not rejected.strip():
        raise RowError(Flaw.EMPTY_RESPONSE, "one response is the other's beginning: nothing is left beyond the prompt")
    return TextPair(prompt, chosen, rejected)


def _chat_pair(
    row: Row, prompt: str | list[Message] | None, chosen: list[Message], rejected: list[Message]
) -> ChatPair:
    if not isinstance(prompt, list):
        # A text prompt beside whole conversations repeats their first turn; the conversations are what was said.
        _require_difference(chosen, rejected)
        length = shared_length(chosen, rejected)
        asked = [] if prompt is None else [_message("user", prompt)]
        prompt, chosen, rejected = chosen[:length] or asked, chosen[length:], rejected[length:]
    chosen, rejected = _without_prompt(prompt, chosen), _without_prompt(prompt, rejected)
    if all(is_blank(message) for message in prompt):
        raise RowError(Flaw.EMPTY_PROMPT, "there is no message before the responses, or none with content")
    _require_difference(chosen, rejected)
    _check_response(chosen, "chosen")
    _check_response(rejected, "rejected")
    return ChatPair(prompt, chosen, rejected, _read_tools(row.get("tools")), _read_options(row))


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _as_messages(response: str | list[Message]) -> list[Message]:
    return [_message("assistant", response)] if isinstance(response, str) else response


def _without_prompt(prompt: Sequence[Message], response: list[Message]) -> list[Message]:
    repeated = bool(prompt) and response[: len(prompt)] == prompt
    return response[len(prompt) :] if repeated else response


def _require_difference(chosen: object, rejected: object) -> None:
    if chosen == rejected and chosen:
        raise RowError(Flaw.IDENTICAL_RESPONSES, "`chosen` and `rejected` are the same")


def _check_response(response: list[Message], column: str) -> None:
    if not response or (response[-1]["role"] == "assistant" and is_blank(response[-1])):
        raise RowError(Flaw.EMPTY_RESPONSE, f"`{column}` holds no answer")
    if response[0]["role"] != "assistant":
        raise RowError(
            Flaw.RESPONSE_STARTS_WITHOUT_ASSISTANT,
            f"`{column}` answers the prompt with a {response[0]['role']} message; are the two prompts the same?",
        )
    if response[-1]["role"] != "assistant":
        raise RowError(Flaw.RESPONSE_ENDS_WITHOUT_ASSISTANT, f"`{column}` ends in a {response[-1]['role']} message")


def _read_tools(value: object) -> list[object] | None:
    tools = without_nulls(_parsed(value, Flaw.BAD_TOOLS, "tools"))
    if tools is None or isinstance(tools, list):
        return tools or None
    raise RowError(Flaw.BAD_TOOLS, f"`tools` is of type {type(tools).__name__}, not a list")


def _read_options(row: Row) -> Mapping[str, object]:
    parsed = _parsed(row.get("chat_template_kwargs"), Flaw.BAD_TEMPLATE_OPTIONS, "chat_template_kwargs")
    options = {} if parsed is None else without_nulls(parsed)
    if not isinstance(options, dict):
        raise RowError(Flaw.BAD_TEMPLATE_OPTIONS, "`chat_template_kwargs` is not a mapping")
    if taken := OWN_TEMPLATE_OPTIONS & options.keys():
        raise RowError(Flaw.BAD_TEMPLATE_OPTIONS, f"`chat_template_kwargs` cannot set {', '.join(sorted(taken))}")
    return options


def _parsed(value: object, flaw: Flaw, column: str) -> object:
    if not isinstance(value, str) or not value.strip():
        return None if value == "" else value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RowError(flaw, f"`{column}` is text that is not JSON: {error}") from error
