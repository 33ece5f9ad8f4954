"""Rows that are no preference pairs, of every kind: each is counted under its reason, and none is a traceback."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ganpo_core.config import DataConfig
from ganpo_core.data import DataReport, SourceReport, load_pairs
from ganpo_core.errors import DataError
from ganpo_faults.site import WORDS, Site
from ganpo_faults.trial import Family, Trial

MAX_LENGTH = 32
LONG = 1_000_000
"""Characters of a long string."""
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)

Make = Callable[[random.Random], dict[str, object]]


def run(site: Site, trials: int) -> Iterator[Trial]:
    """So many rows: a file of each kind, and one of all kinds in turn."""
    tokenizer = _tokenizer(site.model)
    each, made = max(1, trials // (2 * len(KINDS))), 0
    for name, (reason, make) in KINDS.items():
        rows = [make(site.random) for _ in range(min(each, 3) if name in SLOW else each)]
        made += len(rows)
        yield _judge(name, rows, Counter({reason: len(rows)}), tokenizer, site.folder)
    quick = [kind for name, kind in KINDS.items() if name not in SLOW]
    drawn = [quick[number % len(quick)] for number in range(max(each, trials - made))]
    site.random.shuffle(drawn)
    expected = Counter(reason for reason, _ in drawn)
    yield _judge("all kinds", [make(site.random) for _, make in drawn], expected, tokenizer, site.folder)


def _judge(name: str, rows: list[dict[str, object]], expected: Counter[str], tokenizer: Any, folder: Path) -> Trial:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = DataReport()
    config = DataConfig(path=str(path), max_length=MAX_LENGTH, on_overlong="drop")
    try:
        load_pairs(config, tokenizer, report=report)
    except DataError:
        pass  # too many flawed rows: the run is refused, and the counts are there all the same
    except Exception as error:
        return Trial(name, False, f"{type(error).__name__}: {error}")
    found = report.sources.get("rows.jsonl", SourceReport())
    counted = found.dropped + Counter({KEPT: found.kept}) + Counter()
    sums = found.kept + found.dropped.total() == found.rows == len(rows)
    return Trial(name, sums and counted == expected, f"{len(rows)} rows: {found.line()}")


def _tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _words(draw: random.Random, count: int = 4) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(count))


def _pair(draw: random.Random, **changed: object) -> dict[str, object]:
    chosen, rejected = draw.sample(WORDS, 2)
    return {"prompt": _words(draw), "chosen": f" {chosen}", "rejected": f" {rejected}", **changed}


def _turn(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def _chat(draw: random.Random, **changed: object) -> dict[str, object]:
    chosen, rejected = draw.sample(WORDS, 2)
    return {
        "prompt": [_turn("user", _words(draw))],
        "chosen": [_turn("assistant", chosen)],
        "rejected": [_turn("assistant", rejected)],
        **changed,
    }


def _changed(column: str, value: object) -> Make:
    return lambda draw: _pair(draw, **{column: value})


def _changed_chat(column: str, value: object) -> Make:
    return lambda draw: _chat(draw, **{column: value})


def _without(column: str) -> Make:
    return lambda draw: {key: value for key, value in _pair(draw).items() if key != column}


def _odd(draw: random.Random) -> object:
    return draw.choice([0, 1.5, True, {"text": "w1"}, [1, 2], [["w1"]], [None], -(10**20)])


KEPT = "kept"
"""Not flawed: one word that the tokenizer does not know, text in brackets, or markers, which are noted."""
KINDS: Mapping[str, tuple[str, Make]] = {
    "empty response": ("empty_response", _changed("chosen", "")),
    "response of whitespace": ("empty_response", _changed("rejected", " \t\n ")),
    "prompt of whitespace": ("empty_prompt", _changed("prompt", " \n")),
    "chosen is rejected": ("identical_responses", lambda draw: _pair(draw, chosen=" w1", rejected=" w1")),
    "the same tokens": ("identical_responses", lambda draw: _pair(draw, chosen=" w1", rejected="  w1")),
    "null": ("missing_value", _changed("chosen", None)),
    "no column in this row": ("missing_value", _without("rejected")),
    "a null prompt": ("missing_value", _changed("prompt", None)),
    "a wrong type": ("wrong_type", lambda draw: _pair(draw, chosen=_odd(draw))),
    "a prompt of a wrong type": ("wrong_type", lambda draw: _pair(draw, prompt=_odd(draw))),
    "1 MB of one word": (KEPT, _changed("chosen", "w" * LONG)),
    "1 MB of words": ("overlong", _changed("chosen", " w1" * (LONG // 3))),
    "a prompt longer than max_length": ("overlong", lambda draw: _pair(draw, prompt=_words(draw, 2 * MAX_LENGTH))),
    "half of a surrogate pair": ("lone_surrogate", _changed("chosen", " w1 \ud800")),
    "half of a surrogate pair in the prompt": ("lone_surrogate", _changed("prompt", "w1 \udfff")),
    "a NUL character": ("nul_character", _changed("rejected", " w1\0w2")),
    "special tokens alone": ("only_special_tokens", _changed("chosen", "<eos> <pad>")),
    "special tokens alone, in a chat": ("only_special_tokens", _changed_chat("chosen", [_turn("assistant", "<eos>")])),
    "template markers inside of content": (KEPT, _changed_chat("prompt", [_turn("user", "w1 <eos> assistant w2")])),
    "an unknown role": ("unknown_role", _changed_chat("prompt", [_turn("wizard", "w1")])),
    "content that is an image": (
        "content_not_text", _changed_chat("prompt", [_turn("user", [{"type": "image", "image": "x.png"}])])
    ),
    "a message that holds lists in lists": (
        "nested_too_deep", _changed_chat("prompt", [{**_turn("user", "w1"), "note": json.loads("[" * 900 + "]" * 900)}])
    ),
    "content of a wrong type": ("wrong_type", _changed_chat("chosen", [_turn("assistant", 7)])),
    "content that is null": ("missing_value", _changed_chat("chosen", [_turn("assistant", None)])),
    "no messages": ("empty_prompt", _changed_chat("prompt", [])),
    "an answer without messages": ("empty_response", _changed_chat("rejected", [])),
    "an answer that ends in a question": (
        "response_ends_without_assistant",
        _changed_chat("chosen", [_turn("assistant", "w1"), _turn("user", "w2")]),
    ),
    "an answer by the user": ("response_starts_without_assistant", _changed_chat("chosen", [_turn("user", "w1")])),
    "tools that are no list": ("bad_tools", _changed_chat("tools", "{")),
    "tools nested ten thousand deep": ("bad_tools", _changed_chat("tools", "[" * 10_000)),
    "text that begins a list ten thousand deep": (KEPT, lambda draw: _pair(draw, chosen="[" * 10_000)),
    "template options that are no mapping": ("bad_template_options", _changed_chat("chat_template_kwargs", [1])),
    "template options that would run the template": (
        "bad_template_options", _changed_chat("chat_template_kwargs", {"tokenize": True})
    ),
    "a preference of 7": ("bad_preference", _changed("preference", 7)),
    "a preference that is no number": ("bad_preference", _changed("preference", "NaN")),
}
"""(the reason under which the report counts it, how to make one), by what is wrong."""
SLOW = ("1 MB of one word", "1 MB of words")

FAMILY = Family(
    name="rows",
    title="10,000 poisoned rows of every kind",
    must="0 tracebacks, every reason counted, the counts add up to the rows",
    peers="silently trained on",
    trials=10_000,
    run=run,
    short=1000,
)
