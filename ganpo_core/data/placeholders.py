"""Which image stands where: a row's columns and the parts of its messages become one order."""

from __future__ import annotations

from dataclasses import replace

from ganpo_core.data.flaws import Flaw, RowError
from ganpo_core.data.formats import ChatPair, Row, TextPair
from ganpo_core.data.messages import Message, images_in


def place_images(pair: TextPair | ChatPair, row: Row) -> TextPair | ChatPair:
    """The pair with its images in `images`, as the row has them, and messages whose content is a list of parts.

    A part of type `image` either holds its image or stands for the next one of the column `images` (or `image`). Where
    there is no such part, all images come before the text of the first message of the user, as in TRL. Raises RowError
    where parts and images do not add up.
    """
    listed = _column(row)
    if isinstance(pair, TextPair):
        return replace(pair, images=tuple(listed))
    for message in (*pair.chosen, *pair.rejected):
        if images_in(message["content"]):
            raise RowError(Flaw.IMAGE_IN_RESPONSE, "a response holds an image, and models answer in text")
    prompt = [_typed(message) for message in pair.prompt]
    parts = [part for message in prompt for part in images_in(message["content"])]
    if listed and not parts:
        first = next((message for message in prompt if message["role"] == "user"), prompt[0])
        parts = [{"type": "image"} for _ in listed]
        first["content"] = [*parts, *_parts(first)]
    missing = sum("image" not in part for part in parts)
    if missing != len(listed):
        raise RowError(
            Flaw.IMAGE_COUNT, f"the prompt has {missing} places for images of the column, which has {len(listed)}"
        )
    rest = iter(listed)
    images = tuple(part.pop("image") if "image" in part else next(rest) for part in parts)
    chosen, rejected = ([_typed(message) for message in side] for side in (pair.chosen, pair.rejected))
    return replace(pair, prompt=prompt, chosen=chosen, rejected=rejected, images=images)


def _column(row: Row) -> list[object]:
    value = row.get("images") if row.get("images") is not None else row.get("image")
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _typed(message: Message) -> Message:
    return {**message, "content": [dict(part) for part in _parts(message)]}


def _parts(message: Message) -> list[Message]:
    content = message["content"]
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []
