"""The oracle by hand, the grammar, the split, the writer and the annotator."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from ganpo_lab.preferences import PreferenceRecipe, preference
from ganpo_lab.reference import make_tokenizer
from ganpo_lab.world import EOS, VOCABULARY, Request, combinations, draw_requests, judge, parse
from ganpo_lab.writer import write

REQUEST = Request((1, 4), 3)
"""Under seed 3: k1 wants (3 + 1) mod 10 = 4, k4 wants (12 + 1) mod 10 = 3."""


@pytest.mark.parametrize(
    ("answer", "reward", "strict", "loose"),
    [
        ("{ k1 : v4 , k4 : v3 } <eos>", 3.0, True, True),
        ("{ k4 : v3 , k1 : v4 } <eos> junk after it", 3.0, True, True),
        ("{ k1 : v4 } <eos>", 2.0, False, False),
        ("{ k1 : v4 , k4 : v5 } <eos>", 2.0, True, True),
        ("{ k1 : v0 , k1 : v4 } <eos>", 1.0, False, False),
        ("{ k1 : v4 , k4 : v3 , k0 : v0 } <eos>", 3.0 - 0.5 / 3, False, True),
        ("{ k0 : v0 , k2 : v0 , k3 : v0 , k5 : v0 } <eos>", 0.5, False, False),
        ("{ k1 : [ v4 , v9 ] , k4 : { k0 : v3 } } <eos>", 3.0, True, True),
        ("{ k1 : { k1 : { k1 : v4 } } , k4 : v3 } <eos>", 3.0, True, True),
    ],
)
def test_the_oracle_by_hand(answer: str, reward: float, strict: bool, loose: bool) -> None:
    verdict = judge(REQUEST, answer.split())
    assert (verdict.valid, verdict.strict, verdict.loose) == (True, strict, loose)
    assert verdict.reward == pytest.approx(reward)


@pytest.mark.parametrize(
    "answer",
    [
        "", "<eos>", "{ } <eos>", "{ k1 : v4 }", "{ k1 v4 } <eos>", "{ k1 : } <eos>", "{ k1 : v4 , } <eos>",
        "{ k1 : [ ] } <eos>", "{ k1 : [ v1 v2 ] } <eos>", "{ v1 : v4 } <eos>", "{ k1 : k4 } <eos>",
        "{ k1 : v4 } } <eos>", "{ k1 : { k1 : { k1 : { k1 : v4 } } } } <eos>", "[ v1 ] <eos>",
    ],
)
def test_what_breaks_the_grammar_earns_nothing(answer: str) -> None:
    verdict = judge(REQUEST, answer.split())
    assert (verdict.reward, verdict.valid, verdict.strict, verdict.loose) == (0.0, False, False, False)


def test_parse_returns_top_level_pairs_with_their_first_leaf() -> None:
    record = "{ k0 : [ v7 , v1 ] , k2 : { k5 : v9 , k6 : v0 } }"
    assert parse(record.split()) == [(0, 7), (2, 9)]


def test_there_are_28_tokens_and_920_requests_split_by_hash() -> None:
    """8 + 28 + 56 key sets times 10 seeds; the shares are within 3 points of 85, 7.5 and 7.5 %."""
    requests = combinations()
    assert (len(VOCABULARY), len(requests)) == (28, 920)
    shares = Counter(request.split for request in requests)
    assert shares["train"] / 920 == pytest.approx(0.85, abs=0.03)
    assert shares["dev"] / 920 == pytest.approx(0.075, abs=0.03)
    assert shares["test"] / 920 == pytest.approx(0.075, abs=0.03)
    assert all(Request(r.keys[::-1], r.seed).split == r.split for r in requests)


def test_requests_are_drawn_from_their_split_in_any_order() -> None:
    drawn = draw_requests("test", 300, random.Random(0))
    assert {request.split for request in drawn} == {"test"}
    assert any(list(request.keys) != sorted(request.keys) for request in drawn)


def test_the_writer_is_imperfect_as_stated() -> None:
    """6 % of answers have one token spoilt; of what remains nearly all is valid, with extras in about 35 %."""
    draw = random.Random(1)
    requests = draw_requests("train", 4000, draw)
    answers = [write(request, draw) for request in requests]
    verdicts = [judge(request, answer) for request, answer in zip(requests, answers, strict=True)]
    valid = sum(verdict.valid for verdict in verdicts) / 4000
    assert 0.94 < valid < 0.98
    assert 1.9 < sum(verdict.reward for verdict in verdicts) / 4000 < 2.3
    assert all(answer[-1] == EOS for answer in answers)


def test_the_annotator_prefers_reward_and_length() -> None:
    """tau 0.5, 0.05 a token: a reward of 1 more is sigmoid(2) = 0.8808; ten tokens more alone, sigmoid(0.5) = 0.6225."""
    recipe = PreferenceRecipe()
    assert preference(recipe, 0.0, 0) == 0.5
    assert preference(recipe, 1.0, 0) == pytest.approx(0.880797, abs=1e-6)
    assert preference(recipe, 0.0, 10) == pytest.approx(0.622459, abs=1e-6)


def test_the_tokenizer_reads_words_and_the_prompt_is_a_prefix() -> None:
    tokenizer = make_tokenizer()
    prompt, answer = REQUEST.prompt, " { k1 : v4 }"
    ids = tokenizer(prompt).input_ids
    assert [VOCABULARY[token] for token in ids] == ["<bos>", "k1", "k4", "v3", "<sep>"]
    assert tokenizer(prompt + answer).input_ids[: len(ids)] == ids
    assert tokenizer.decode(tokenizer(answer).input_ids) == "{ k1 : v4 }"
