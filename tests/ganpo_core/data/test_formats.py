"""Every accepted format, and every kind of row that is refused."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from ganpo_core.data import load_pairs
from ganpo_core.data.flaws import RowError
from ganpo_core.data.formats import ChatPair, TextPair, parse_row
from ganpo_core.errors import DataError

ASK = {"role": "user", "content": "one two"}
GOOD = {"role": "assistant", "content": "three"}
BAD = {"role": "assistant", "content": "four five"}
SOUND = {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}

CHAT_ROWS = {
    "explicit": SOUND,
    "responses repeat the prompt": {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "implicit": {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "responses are text": {"prompt": [ASK], "chosen": "three", "rejected": "four five"},
    "one response is text": {"prompt": [ASK], "chosen": [GOOD], "rejected": "four five"},
    "text prompt before messages": {"prompt": "one two", "chosen": [GOOD], "rejected": [BAD]},
    "text prompt and conversations": {"prompt": "one two", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
    "messages as JSON text": {key: json.dumps(value) for key, value in SOUND.items()},
    "content in parts": {**SOUND, "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "three"}]}]},
    "null fields": {**SOUND, "chosen": [{**GOOD, "name": None}], "tools": None, "chat_template_kwargs": None},
    "extra columns": {**SOUND, "id": 7, "score": 0.5},
}
TEXT_ROWS = {
    "explicit": {"prompt": "one two", "chosen": " three", "rejected": " four five"},
    "implicit": {"chosen": "one two three", "rejected": "one two four five"},
}


@pytest.mark.parametrize("row", CHAT_ROWS.values(), ids=CHAT_ROWS)
def test_conversations_give_the_same_tokens_in_every_format(row, write, config, tokenizer):
    """<user> one two </s> <nl> <assistant> | three </s> <nl> | four five </s> <nl>."""
    dataset, _ = load_pairs(config(path=write([row])), tokenizer)
    assert dataset[0].prompt == (6, 10, 11, 2, 4, 7)
    assert dataset[0].chosen == (12, 2, 4)
    assert dataset[0].rejected == (13, 14, 2, 4)


@pytest.mark.parametrize("row", TEXT_ROWS.values(), ids=TEXT_ROWS)
def test_text_gives_the_same_tokens_in_every_format(row, write, config, tokenizer):
    """<s> one two | three </s> | four five </s>: the tokenizer adds <s>, the response gets its </s>."""
    dataset, _ = load_pairs(config(path=write([row])), tokenizer)
    assert dataset[0].prompt == (1, 10, 11)
    assert dataset[0].chosen == (12, 2)
    assert dataset[0].rejected == (13, 14, 2)


def test_an_implicit_text_prompt_leaves_the_space_to_the_responses():
    assert parse_row(TEXT_ROWS["implicit"]) == TextPair("one two", " three", " four five")


def test_a_response_that_begins_with_the_other_keeps_its_last_character():
    """Like TRL: 'ab' and 'abc' share 'ab', and nothing would be left of the first; the prompt is 'a'."""
    assert parse_row({"chosen": "ab", "rejected": "abc"}) == TextPair("a", "b", "bc")


def test_an_implicit_prompt_takes_all_shared_turns():
    more = [ASK, GOOD, {"role": "user", "content": "six"}]
    pair = parse_row({"chosen": [*more, GOOD], "rejected": [*more, BAD]})
    assert pair == ChatPair(more, [GOOD], [BAD])


def test_tools_and_template_options_reach_the_template_from_values_and_from_json(write, config, tokenizer):
    """The template opens with <tools> 8 where tools are given, <style> 9 where the row asks for it."""
    tools, options = [{"type": "function"}], {"style": True}
    rows = [
        {**SOUND, "tools": tools, "chat_template_kwargs": options},
        {**SOUND, "tools": json.dumps(tools), "chat_template_kwargs": json.dumps(options)},
        {**SOUND, "tools": [], "chat_template_kwargs": {}},
    ]
    dataset, _ = load_pairs(config(path=write(rows)), tokenizer)
    assert [pair.prompt[:2] for pair in dataset] == [(8, 9), (8, 9), (6, 10)]


def test_a_tool_call_without_text_is_a_response(write, config, tokenizer):
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "one"}}]}
    dataset, _ = load_pairs(config(path=write([{**SOUND, "chosen": [call]}])), tokenizer)
    assert dataset[0].chosen == (2, 4)




def nested(depth: int) -> list[object]:
    """A list in a list in a list."""
    found: list[object] = []
    for _ in range(depth):
        found = [found]
    return found


FLAWED = [
    ("missing_value", {**SOUND, "chosen": None}),
    ("missing_value", {"prompt": [ASK], "chosen": [GOOD]}),
    ("missing_value", {**SOUND, "prompt": None}),
    ("missing_value", {**SOUND, "chosen": [{"role": "assistant"}]}),
    ("wrong_type", {**SOUND, "chosen": 3}),
    ("wrong_type", {**SOUND, "chosen": ["three"]}),
    ("wrong_type", {**SOUND, "chosen": [{"from": "gpt", "value": "three"}]}),
    ("wrong_type", {**SOUND, "chosen": [{"role": "assistant", "content": 3}]}),
    ("content_not_text", {**SOUND, "prompt": [{"role": "user", "content": [{"type": "image"}]}]}),
    ("unknown_role", {**SOUND, "prompt": [{"role": "narrator", "content": "one"}]}),
    ("empty_prompt", {**SOUND, "prompt": []}),
    ("empty_prompt", {**SOUND, "prompt": [{"role": "user", "content": " "}]}),
    ("empty_prompt", {"prompt": "", "chosen": "one", "rejected": "two"}),
    ("empty_prompt", {"chosen": "one", "rejected": "two"}),
    ("empty_response", {**SOUND, "rejected": []}),
    ("empty_response", {**SOUND, "rejected": [ASK]}),
    ("empty_response", {**SOUND, "chosen": [{"role": "assistant", "content": "\n"}]}),
    ("empty_response", {"prompt": "one", "chosen": " \t", "rejected": "two"}),
    ("identical_responses", {**SOUND, "rejected": [GOOD]}),
    ("identical_responses", {"prompt": "one", "chosen": "two", "rejected": "two"}),
    ("identical_responses", {"chosen": [ASK, GOOD], "rejected": [ASK, GOOD]}),
    ("identical_responses", {"prompt": "one", "chosen": "two", "rejected": "two "}),
    ("only_special_tokens", {**SOUND, "chosen": [{"role": "assistant", "content": "</s>"}]}),
    ("only_special_tokens", {"prompt": "one", "chosen": "<pad> </s>", "rejected": "two"}),
    ("lone_surrogate", {"prompt": "one", "chosen": "\ud800", "rejected": "two"}),
    ("lone_surrogate", {**SOUND, "prompt": [{"role": "user", "content": "one \udfff"}]}),
    ("response_starts_without_assistant", {**SOUND, "chosen": [{"role": "user", "content": "six"}, GOOD]}),
    ("response_ends_without_assistant", {**SOUND, "chosen": [GOOD, ASK]}),
    ("bad_preference", {**SOUND, "preference": 10**400}),
    ("nested_too_deep", {**SOUND, "tools": nested(900)}),
    ("nested_too_deep", {**SOUND, "prompt": [{**ASK, "note": nested(900)}]}),
    ("bad_tools", {**SOUND, "tools": "not json"}),
    ("bad_tools", {**SOUND, "tools": {"name": "one"}}),
    ("bad_template_options", {**SOUND, "chat_template_kwargs": {"tokenize": True}}),
    ("bad_template_options", {**SOUND, "chat_template_kwargs": [1]}),
]


@pytest.mark.parametrize(("flaw", "row"), FLAWED, ids=[f"{flaw}-{i}" for i, (flaw, _) in enumerate(FLAWED)])
def test_a_flawed_row_is_dropped_and_counted_by_its_flaw(flaw, row, write, config, tokenizer):
    """One flawed row in 100 is 1 %: dropped."""
    dataset, report = load_pairs(config(path=write([*[SOUND] * 99, row])), tokenizer)
    counts = report.sources["pairs.jsonl"]
    assert len(dataset) == counts.kept == 99
    assert counts.dropped == Counter({flaw: 1})


def test_a_row_that_the_template_refuses_is_a_flawed_row(write, config, tokenizer_with):
    template = "{% if messages|length > 3 %}{{ raise_exception('at most one turn') }}{% endif %}<user> one <assistant> "
    template += "{{ messages[-1]['content'] if not add_generation_prompt else '' }}"
    row = {**SOUND, "prompt": [ASK, GOOD, ASK]}
    _, report = load_pairs(config(path=write([*[SOUND] * 99, row])), tokenizer_with(template))
    assert report.lines() == ["pairs.jsonl: 100 rows, 99 kept; dropped: 1 refused_by_template"]


def test_more_than_one_flawed_row_in_a_hundred_stops_and_names_the_first(write, config, tokenizer):
    rows = [*[SOUND] * 97, {**SOUND, "chosen": [GOOD, ASK]}, SOUND, {**SOUND, "chosen": None}]
    with pytest.raises(DataError) as error:
        load_pairs(config(path=write(rows)), tokenizer)
    assert "2 of 100 rows" in str(error.value)
    assert "1 response_ends_without_assistant, 1 missing_value" in str(error.value)
    assert "the first is row 98: response_ends_without_assistant, `chosen` ends in a user message" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_flawed_row_is_the_first_of_the_file_whatever_check_found_it(write, config, tokenizer):
    """Row 1 has no flaw but in its tokens, which are looked at after the text of row 2."""
    rows = [
        {"prompt": "one", "chosen": "two", "rejected": "two "},
        {"prompt": "one", "chosen": None, "rejected": "two"},
    ]
    with pytest.raises(DataError, match="the first is row 1: identical_responses"):
        load_pairs(config(path=write(rows)), tokenizer)


def test_a_column_missing_everywhere_names_the_columns_found(write, config, tokenizer):
    path = write([{"question": "one", "chosen": "two"}])
    with pytest.raises(DataError, match="has no column rejected; it has: question, chosen"):
        load_pairs(config(path=path), tokenizer)


def test_a_flaw_is_named_with_its_detail():
    with pytest.raises(RowError, match="unknown_role: `prompt` has a message of role 'narrator'"):
        parse_row({**SOUND, "prompt": [{"role": "narrator", "content": "one"}]})
