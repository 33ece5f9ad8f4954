"""Why one row cannot become a preference pair."""

from __future__ import annotations

from enum import StrEnum


class Flaw(StrEnum):
    """What is wrong with a row; the names under which dropped rows are counted."""

    MISSING_VALUE = "missing_value"
    WRONG_TYPE = "wrong_type"
    NESTED_TOO_DEEP = "nested_too_deep"
    CONTENT_NOT_TEXT = "content_not_text"
    UNKNOWN_ROLE = "unknown_role"
    EMPTY_PROMPT = "empty_prompt"
    EMPTY_RESPONSE = "empty_response"
    ONLY_SPECIAL_TOKENS = "only_special_tokens"
    LONE_SURROGATE = "lone_surrogate"
    NUL_CHARACTER = "nul_character"
    IDENTICAL_RESPONSES = "identical_responses"
    RESPONSE_STARTS_WITHOUT_ASSISTANT = "response_starts_without_assistant"
    RESPONSE_ENDS_WITHOUT_ASSISTANT = "response_ends_without_assistant"
    BAD_LABEL = "bad_label"
    BAD_PREFERENCE = "bad_preference"
    BAD_TOOLS = "bad_tools"
    BAD_TEMPLATE_OPTIONS = "bad_template_options"
    REFUSED_BY_TEMPLATE = "refused_by_template"
    REFUSED_BY_PROCESSOR = "refused_by_processor"
    IMAGE_COUNT = "image_count"
    IMAGE_IN_RESPONSE = "image_in_response"
    MISSING_IMAGE = "missing_image"
    BROKEN_IMAGE = "broken_image"
    REMOTE_IMAGE = "remote_image"


BAD_IMAGE = frozenset({Flaw.MISSING_IMAGE, Flaw.BROKEN_IMAGE, Flaw.REMOTE_IMAGE})
"""The flaws of an image itself, for which `data.on_bad_image` says what happens."""


class RowError(Exception):
    """A flaw of one row: the row is dropped and counted, and too many of them stop the run."""

    def __init__(self, flaw: Flaw, detail: str) -> None:
        self.flaw = flaw
        self.detail = detail
        super().__init__(f"{flaw}: {detail}")
