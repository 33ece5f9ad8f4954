"""A tokenizer small enough to count by hand, and files of rows.

Ids: 0 <pad>, 1 <s>, 2 </s>, 3 <unk>, 4 <nl>, 5 <system>, 6 <user>, 7 <assistant>, 8 <tools>; then 10 one, 11 two, …
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ganpo_core.config import DataConfig

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
MARKS = ("<nl>", "<system>", "<user>", "<assistant>", "<tools>", "<style>")
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TEMPLATE = (
    "{% if tools %}<tools> {% endif %}{% if style %}<style> {% endif %}"
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s> <nl> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)

Rows = Sequence[Mapping[str, object]]


def make_tokenizer(chat_template: str | None = TEMPLATE, adds: str = "<s> $A") -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(SPECIAL + MARKS + WORDS)}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(single=adds, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Adds <s> to text; its chat template writes no <s>, and <nl> after each </s>."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def tokenizer_with() -> Callable[..., PreTrainedTokenizerFast]:
    """The same tokenizer with another template, or adding other special tokens."""
    return make_tokenizer


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines and returns the path."""

    def write_rows(rows: Rows, name: str = "pairs.jsonl") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write_rows


@pytest.fixture
def config() -> Callable[..., DataConfig]:
    """A `data` section."""
    return DataConfig
