"""Chat messages as rows hold them, made uniform: the same conversation gives the same messages from any file type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ganpo_core.data.flaws import Flaw, RowError

Message = dict[str, object]

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython"})


def read_side(value: object, column: str, with_images: bool = False) -> str | list[Message]:
    """One column of a row: text, or messages; text that is a JSON list of messages becomes those messages.

    Where `with_images`, the content of messages that hold images stays a list of parts.
    """
    if value is None:
        raise RowError(Flaw.MISSING_VALUE, f"`{column}` is missing or null")
    if isinstance(value, str):
        messages = _messages_in(value)
        if messages is None:
            return value
        value = messages
    if not isinstance(value, list):
        raise RowError(Flaw.WRONG_TYPE, f"`{column}` is of type {type(value).__name__}, not text or a list of messages")
    return [_read_message(message, column, with_images) for message in value]


def is_blank(message: Message) -> bool:
    """True where a message says nothing: no text but whitespace, no image, and no tool call."""
    content = message["content"]
    return not (text_of(content).strip() or images_in(content) or message.get("tool_calls"))


def text_of(content: object) -> str:
    """The text of a message's content, which is text or a list of parts."""
    return "".join(str(part.get("text", "")) for part in content) if isinstance(content, list) else str(content)


def images_in(content: object) -> list[Message]:
    """The parts of a message's content that are images."""
    return [part for part in content if part["type"] == "image"] if isinstance(content, list) else []


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


def _read_message(message: object, column: str, with_images: bool) -> Message:
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
    return {"role": role, "content": _read_content(content, column, with_images), **fields}


def _read_content(content: object, column: str, with_images: bool) -> str | list[Message]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise RowError(Flaw.WRONG_TYPE, f"`{column}` has message content of type {type(content).__name__}")
    if with_images and any(_is_image(part) for part in content):
        return [_read_part(part, column) for part in content]
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise RowError(Flaw.CONTENT_NOT_TEXT, f"`{column}` has message content that is not text, such as an image")
    return "".join(str(text) for text in texts)


def _is_image(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "image_url")


def _read_part(part: object, column: str) -> Message:
    """A part of a message's content: text, or an image, under `image` whatever names it."""
    if isinstance(part, Mapping) and _is_image(part):
        found = next((part[key] for key in ("image", "image_url", "url", "path") if part.get(key) is not None), None)
        if isinstance(found, Mapping) and "url" in found:
            found = found["url"]
        return {"type": "image"} if found is None else {"type": "image", "image": found}
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        raise RowError(Flaw.CONTENT_NOT_TEXT, f"`{column}` has message content that is neither text nor an image")
    return {"type": "text", "text": text}
