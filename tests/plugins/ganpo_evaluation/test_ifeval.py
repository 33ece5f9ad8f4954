"""IFEval's checkers: the published figures of GPT-4's responses, and single verdicts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="IFEval's checkers are lm-eval's")

from ganpo_evaluation.ifeval import IFEval, load_checkers
from ganpo_evaluation.ifeval_results import draw, from_responses
from ganpo_evaluation.results import show

from ganpo_core import DataError
from ganpo_core.testing import check_judge

ROWS = [
    {"key": 1, "prompt": "Use no commas and end with The end.", "kwargs": [{}, {"end_phrase": "The end."}],
     "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"]},
    {"key": 2, "prompt": "Two sentences at most.", "kwargs": [{"num_sentences": 3, "relation": "less than"}],
     "instruction_id_list": ["length_constraints:number_sentences"]},
    {"key": 3, "prompt": "Capitals.", "kwargs": [{}], "instruction_id_list": ["change_case:english_capital"]},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ifeval") / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_the_published_figures_of_gpt4_are_met(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is fetched at run time")

    monkeypatch.setattr(nltk, "download", refuse)
    folder = shared / "data" / "eval" / "ifeval"
    result = from_responses([folder / "gpt4_responses_20231107.jsonl"], folder / "input_data.jsonl")
    found = result.rows[0]
    assert found["prompt strict"] == pytest.approx(76.89, abs=1.5)
    assert found["instruction strict"] == pytest.approx(83.57, abs=1.5)
    assert found["prompt loose"] > found["prompt strict"]  # type: ignore[operator]
    assert "540 of 541 prompts have a response" in result.notes[1]
    show(result, tmp_path, lambda figure: draw(result, figure))
    assert (tmp_path / "ifeval.png").read_bytes()[:4] == b"\x89PNG"


def test_strict_and_loose_and_both_levels(data: Path) -> None:
    """The last line breaks the end; without it the response follows both instructions."""
    prompt, response = str(ROWS[0]["prompt"]), "Here you are. The end.\nBye"
    scores = {
        (level, mode): IFEval(str(data), level, mode).build()([prompt], [response])[0]
        for level in ("prompt", "instruction")
        for mode in ("strict", "loose")
    }
    assert [scores["prompt", mode] for mode in ("strict", "loose")] == [0, 1]
    assert [scores["instruction", mode] for mode in ("strict", "loose")] == [0.5, 1]


def test_abbreviations_end_no_sentence(data: Path) -> None:
    score = IFEval(str(data)).build()
    prompt = str(ROWS[1]["prompt"])
    assert score([prompt] * 2, ["Dr. Smith met Mr. Jones, i.e. his friend. They ate.", "One. Two. Three."]) == [1, 0]


def test_verdicts_repeat_and_leave_pythons_randomness_alone(data: Path) -> None:
    check_judge(IFEval(str(data)), [(str(row["prompt"]), "A REPLY IN CAPITALS. THE END.") for row in ROWS])
    state = random.getstate()
    load_checkers(data)(str(ROWS[2]["prompt"]), "WORDS THAT ARE ENGLISH")
    assert random.getstate() == state


def test_a_prompt_without_instructions_is_named(data: Path) -> None:
    with pytest.raises(DataError, match="no instructions for the prompt 'Who"):
        IFEval(str(data)).build()(["Who are you?"], ["I am."])
