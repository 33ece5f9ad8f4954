"""Chat messages as rows hold them, made uniform: the same conversation gives the same messages from any file type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ganpo_core.data.flaws import Flaw, RowError

Message = dict[str, object]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})


def read_side(value: object, column: str) -> str | list[Message]:
    """One column of a row: text, or messages; text that is a JSON list of messages becomes those messages."""
    if value is None:
        raise RowError(Flaw.MISSING_VALUE, f"`{column}` is missing or null")
    if isinstance(value, str):
        messages = _messages_in(value)
        if messages is None:
            return value
        value = messages
    if not isinstance(value, list):
        raise RowError(Flaw.WRONG_TYPE, f"`{column}` is of type {type(value).__name__}, not text or a list of messages")
    return [_read_message(message, column) for message in value]


def is_blank(message: Message) -> bool:
    """True where a message says nothing: no text but whitespace, and no tool call."""
    return not str(message["content"]).strip() and not message.get("tool_calls")


def without_nulls(value: object) -> object:
    """`value` without null fields: Arrow gives every struct of a column the fields of all the others, set to null."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _messages_in(text: str) -> list[object] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):  # then it is text that begins with a bracket
        return None
    is_chat = isinstance(parsed, list) and parsed and all(isinstance(item, dict) and "role" in item for item in parsed)
    return parsed if is_chat else None


def _read_message(message: object, column: str) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RowError(Flaw.WRONG_TYPE, f"`{column}` holds something other than messages with `role` and `content`")
    role = message["role"]
    if role not in ROLES:
        raise RowError(
            Flaw.UNKNOWN_ROLE, f"`{column}` has a message of role '{role}'; known: {', '.join(sorted(ROLES))}"
        )
    rest = {key: without_nulls(item) for key, item in message.items() if key not in ("role", "content")}
    content = message.get("content")
    if content is None and not rest.get("tool_calls"):
        raise RowError(Flaw.MISSING_VALUE, f"`{column}` has a {role} message without content")
    fields = {key: item for key, item in rest.items() if item is not None}
    return {"role": role, "content": _read_content(content, column), **fields}


def _read_content(content: object, column: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RowError(Flaw.WRONG_TYPE, f"`{column}` has message content of type {type(content).__name__}")
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise RowError(Flaw.CONTENT_NOT_TEXT, f"`{column}` has message content that is not text, such as an image")
    return "".join(str(text) for text in texts)
