"""Where a response begins, how it ends, and what does not fit."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ganpo_core.data import load_pairs
from ganpo_core.errors import DataError

TEXT = {"prompt": "one two", "chosen": " three", "rejected": " four five"}
CHAT = {
    "prompt": [{"role": "user", "content": "one"}],
    "chosen": [{"role": "assistant", "content": "two"}],
    "rejected": [{"role": "assistant", "content": "three"}],
}


def sides(dataset) -> list[tuple[tuple[int, ...], ...]]:
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset]


@pytest.mark.parametrize("adds", ["$A </s>", "<s> $A </s>"])
def test_an_eos_that_the_tokenizer_adds_ends_the_response_and_not_the_prompt(adds, write, config, tokenizer_with):
    """<s> aside: one two | three </s> | four five </s>, whether the tokenizer adds </s> or not."""
    dataset, _ = load_pairs(config(path=write([TEXT])), tokenizer_with(adds=adds))
    bos = (1,) if "<s>" in adds else ()
    assert sides(dataset) == [((*bos, 10, 11), (12, 2), (13, 14, 2))]


def test_an_eos_in_the_text_is_not_doubled(write, config, tokenizer, tokenizer_with):
    row = {**TEXT, "chosen": " three </s>"}
    for each in (tokenizer, tokenizer_with(adds="<s> $A </s>")):
        assert load_pairs(config(path=write([row])), each)[0][0].chosen == (12, 2)


def test_a_bos_in_the_text_is_not_doubled(write, config, tokenizer):
    """The text brings <s> and the tokenizer adds one: <s> <s> one two would be 4 tokens, 3 are left."""
    dataset, report = load_pairs(config(path=write([{**TEXT, "prompt": "<s> one two"}])), tokenizer)
    assert sides(dataset) == [((1, 10, 11), (12, 2), (13, 14, 2))]
    assert report.lines() == ["pairs.jsonl: 1 rows, 1 kept; note: 1 double_bos"]


def test_a_template_that_writes_bos_has_one(write, config, tokenizer_with):
    template = "<s> {% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"
    template += "{% if add_generation_prompt %}<assistant> {% endif %}"
    dataset, _ = load_pairs(config(path=write([CHAT])), tokenizer_with(template))
    assert sides(dataset) == [((1, 6, 10, 2, 7), (11, 2), (12, 2))]


def test_a_word_across_the_boundary_is_split_there_and_counted(write, config, tokenizer):
    """'seven' + 'teen' would be one unknown word; split, it is seven 16 | <unk> 3."""
    dataset, report = load_pairs(
        config(path=write([{"prompt": "seven", "chosen": "teen", "rejected": " one"}])), tokenizer
    )
    assert sides(dataset) == [((1, 16), (3, 2), (10, 2))]
    assert report.sources["pairs.jsonl"].notes == {"boundary_merged": 1}


def test_a_template_whose_prompt_is_no_prefix_shows_row_and_tokens(write, config, tokenizer_with):
    """The prompt ends in <assistant> <nl>; the conversation has <assistant> two."""
    template = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"
    template += "{% if add_generation_prompt %}<assistant> <nl> {% endif %}"
    with pytest.raises(DataError) as error:
        load_pairs(config(path=write([CHAT])), tokenizer_with(template))
    assert "pairs.jsonl, row 1: the chat template renders the prompt differently" in str(error.value)
    assert "['<user>', 'one', '</s>', '<assistant>', '<nl>']" in str(error.value)
    assert "['<user>', 'one', '</s>', '<assistant>', 'two', '</s>']" in str(error.value)
    assert "tokens 0 to 7" in str(error.value)


def test_conversations_need_a_chat_template(write, config, tokenizer_with):
    with pytest.raises(DataError, match="row 1: the rows are conversations, and the tokenizer has no chat template"):
        load_pairs(config(path=write([CHAT])), tokenizer_with(None))


def test_text_needs_an_eos_token(write, config, tokenizer_with):
    tokenizer = tokenizer_with()
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        load_pairs(config(path=write([TEXT])), tokenizer)


LONG = {"prompt": "one two three", "chosen": " four five", "rejected": " six seven eight nine"}
"""4 prompt tokens with <s>; responses of 3 and 5 tokens with </s>: sides of 7 and 9 tokens."""
PROMPT, CHOSEN, REJECTED = (1, 10, 11, 12), (13, 14, 2), (15, 16, 17, 18, 2)


@pytest.mark.parametrize("policy", ["drop", "truncate_prompt_left", "truncate_response_right", "error"])
def test_a_pair_of_exactly_max_length_is_left_alone(policy, write, config, tokenizer):
    data = config(path=write([LONG]), max_length=9, on_overlong=policy)
    assert sides(load_pairs(data, tokenizer)[0]) == [(PROMPT, CHOSEN, REJECTED)]


@pytest.mark.parametrize(
    ("policy", "max_length", "expected", "line"),
    [
        ("truncate_prompt_left", 8, (PROMPT[1:], CHOSEN, REJECTED), "cut: 1 prompt"),
        ("truncate_prompt_left", 6, (PROMPT[3:], CHOSEN, REJECTED), "cut: 1 prompt"),
        ("truncate_prompt_left", 5, None, "dropped: 1 response_too_long"),
        ("truncate_response_right", 8, (PROMPT, CHOSEN, REJECTED[:4]), "cut: 1 rejected"),
        ("truncate_response_right", 5, (PROMPT, CHOSEN[:1], REJECTED[:1]), "cut: 1 chosen, 1 rejected"),
        ("truncate_response_right", 4, None, "dropped: 1 prompt_too_long"),
        ("drop", 8, None, "dropped: 1 overlong"),
    ],
)
def test_an_overlong_pair_is_cut_or_dropped_and_counted(policy, max_length, expected, line, write, config, tokenizer):
    """Beside it a pair that fits into 4: <s> one | two </s>."""
    short = {"prompt": "one", "chosen": " two", "rejected": " three"}
    data = config(path=write([short, LONG]), max_length=max_length, on_overlong=policy)
    dataset, report = load_pairs(data, tokenizer)
    assert sides(dataset)[1:] == ([expected] if expected else [])
    assert report.lines() == [f"pairs.jsonl: 2 rows, {1 + bool(expected)} kept; {line}"]


def test_a_cut_that_leaves_both_responses_the_same_drops_the_pair(write, config, tokenizer):
    """Only the third response word differs; cut to two, nothing is preferred."""
    alike = {"prompt": "one", "chosen": " two three four", "rejected": " two three five"}
    data = config(path=write([alike, TEXT]), max_length=4, on_overlong="truncate_response_right")
    _, report = load_pairs(data, tokenizer)
    assert report.sources["pairs.jsonl"].overlong == {"identical_after_cut": 1}


def test_overlong_pairs_are_not_flawed_rows_but_something_must_be_left(write, config, tokenizer):
    with pytest.raises(DataError, match=r"none of 3 pairs fits into data\.max_length 5 \(3 overlong\)"):
        load_pairs(config(path=write([LONG] * 3), max_length=5, on_overlong="drop"), tokenizer)


def test_an_overlong_pair_under_error_is_named_with_its_lengths(write, config, tokenizer):
    data = config(path=write([TEXT, LONG]), max_length=8, on_overlong="error")
    with pytest.raises(DataError, match="row 2: 4 prompt tokens with 3 chosen and 5 rejected exceed"):
        load_pairs(data, tokenizer)


def test_all_real_conversations_tokenize_with_the_real_template(shared, config):
    """The template ends each answer in </s> and a line break, which this tokenizer takes for ▁ and <0x0A>.

    Two of the conversations write `<s>` themselves.
    """
    tokenizer = AutoTokenizer.from_pretrained(shared / "models/stories260K")
    data = config(path=str(shared / "data/prefs/train.jsonl"), max_length=100_000)
    dataset, report = load_pairs(data, tokenizer)
    assert report.lines() == ["train.jsonl: 5732 rows, 5732 kept; note: 2 special_token_in_content"]
    assert {tuple(side[-3:]) for pair in dataset for side in (pair.chosen, pair.rejected)} == {(2, 410, 13)}


def test_real_text_tokenizes_with_a_byte_pair_tokenizer_to_what_it_was(shared, write, config):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=gpt2(shared), eos_token="<|endoftext|>")
    lines = (shared / "data/prefs/test_short.jsonl").read_text().splitlines()
    rows = [
        {
            "prompt": "\n".join(message["content"] for message in row["prompt"]),
            **{side: " " + row[side][0]["content"].strip() for side in ("chosen", "rejected")},
        }
        for row in map(json.loads, lines)
    ]
    dataset, report = load_pairs(config(path=write(rows)), tokenizer)
    counts = report.sources["pairs.jsonl"]
    assert counts.kept == counts.rows == len(rows)
    for pair, row in zip(dataset, rows, strict=True):
        assert tokenizer.decode(pair.prompt) == row["prompt"]
        assert tokenizer.decode(pair.rejected) == row["rejected"] + "<|endoftext|>"


def test_byte_pairs_that_merge_over_the_boundary_are_split_there(shared, write, config):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=gpt2(shared), eos_token="<|endoftext|>")
    row = {"prompt": "The answer is hel", "chosen": "lo", "rejected": "met"}
    dataset, report = load_pairs(config(path=write([row])), tokenizer)
    assert report.sources["pairs.jsonl"].notes == {"boundary_merged": 1}
    assert tokenizer.decode(dataset[0].prompt) == "The answer is hel"
    assert tokenizer.decode(dataset[0].chosen) == "lo<|endoftext|>"


def test_a_template_before_an_answer_that_merges_with_it_is_split_there_too(shared, write, config):
    """Of three line breaks the first two are one token, 628; a prompt that ends in the first ends in 198."""
    template = "{% for m in messages %}{{ m['role'] }}\n{{ m['content'] }}<|endoftext|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant\n{% endif %}"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=gpt2(shared), eos_token="<|endoftext|>", chat_template=template
    )
    row = {**CHAT, "chosen": [{"role": "assistant", "content": "\n\ntwo"}]}
    dataset, report = load_pairs(config(path=write([row])), tokenizer)
    assert report.sources["pairs.jsonl"].notes == {"boundary_merged": 1}
    assert (dataset[0].prompt[-1], dataset[0].chosen[0]) == (198, 198)
    assert tokenizer.decode(dataset[0].rejected) == "three<|endoftext|>\n"


def gpt2(shared) -> Tokenizer:
    folder = shared / "tokenizers/gpt2"
    backend = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend
