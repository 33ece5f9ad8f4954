"""Files and judges as other people write them: read as they are meant, or refused with the row and what to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ganpo_evaluation.alpaca_results import from_annotations, from_outputs, judged
from ganpo_evaluation.asking import asked
from ganpo_evaluation.choose import choose_judge
from ganpo_evaluation.function import Function
from ganpo_evaluation.generation import parse_temperatures
from ganpo_evaluation.ifeval_results import from_responses
from ganpo_evaluation.results import Result, show
from ganpo_evaluation.texts import (
    names_apart,
    plain_text,
    prompt_key,
    read_answers,
    read_prompts,
    read_rows,
    short_paths,
)
from typer import BadParameter
from typer.testing import CliRunner

from ganpo_core import DataError, Judge, PluginError, Prompt
from ganpo_core.cli.main import make_app

LENGTH = "def score(prompt, response):\n    return len(response)\n"
PLUGIN = """
from dataclasses import dataclass
from ganpo_core import Judge, hookimpl

@dataclass(frozen=True)
class Odd(Judge):
    \"\"\"Odd.\"\"\"

    def build(self):
        def score(prompts, responses):
            {body}
        return score

@hookimpl
def ganpo_judges():
    return {{"odd": Odd}}
"""


def written(path: Path, rows: object) -> Path:
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    return path


def annotation(preference: object, model: str = "mine") -> dict[str, Any]:
    return {"instruction": "do", "preference": preference, "output_1": "ab", "output_2": "abc", "generator_1": "base",
            "generator_2": model, "annotator": "judge"}


def answers(generator: str, *pairs: tuple[Prompt, str]) -> list[dict[str, Any]]:
    return [{"instruction": prompt, "output": output, "generator": generator, "extra": [1]} for prompt, output in pairs]


def turns(*said: str) -> list[dict[str, object]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(said)]


@pytest.fixture
def longest(tmp_path: Path) -> Function:
    return Function(str(written(tmp_path / "longest.py", LENGTH)))


# -- files ---------------------------------------------------------------------------------------------------------------


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a\\u2028b"}\r\n\r\n{"prompt": "c"}\r\n')
    assert [row["prompt"] for row in read_rows(path)] == ["a\u2028b", "c"]
    lines = tmp_path / "prompts.txt"
    lines.write_bytes("one\u2028still one\r\n\r\ntwo\r\n".encode())
    assert [prompt for prompt, _ in read_prompts(lines)] == ["one\u2028still one", "two"]


def test_what_is_no_file_of_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "wide.json").write_bytes("[]".encode("utf-16"))
    (tmp_path / "empty.txt").write_text("\n")
    for path, message in (
        (tmp_path / "wide.json", "wide.json: not UTF-8"), (tmp_path, "a folder; give a file in it"),
        (tmp_path / "none.txt", "none.txt: no such file"), (tmp_path / "empty.txt", "empty.txt: no lines"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read_prompts(path)


def test_a_conversation_needs_a_chat_template_and_one_message_does_not() -> None:
    assert plain_text(turns("a")) == "a"
    assert plain_text([{"role": "user", "content": [{"type": "text", "text": "a"}]}]) == "a"
    with pytest.raises(DataError, match="a conversation of 3 messages, and the tokenizer has no chat template"):
        plain_text(turns("a", "b", "c"))


def test_files_and_generators_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "m.json", tmp_path / "b" / "m.json", tmp_path / "b" / "n.json"]
    assert short_paths(paths) == ["a/m.json", "b/m.json", "b/n.json"]
    assert names_apart(["m", "m", "n"], short_paths(paths)) == ["m (a/m.json)", "m (b/m.json)", "n"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        written(path, [annotation(1.5, "org/model [v2]"), annotation(1.25, "org/model [v2]")])
    found = from_annotations(paths, None, None, 0)
    assert [row["model"] for row in found.rows] == [f"org/model [v2] ({path})" for path in short_paths(paths)]


# -- annotations ---------------------------------------------------------------------------------------------------------


def test_numbers_as_text_count_and_what_is_missing_is_said(tmp_path: Path) -> None:
    rows = [annotation("1.75"), annotation(float("nan")), annotation(None), annotation(1)]
    found = from_annotations([written(tmp_path / "a.json", rows)], None, None, 0)
    assert (found.rows[0]["win rate"], found.rows[0]["answers"]) == (37.5, 2)
    assert "mine: 2 rows have no preference and are left out" in found.notes


def test_wins_of_zero_and_one_are_doubted(tmp_path: Path) -> None:
    """AlpacaEval's 0 is a tie and its 1 a loss: (0.5 + 0 + 0 + 0.5) / 4, with a word on what they may be instead."""
    found = from_annotations([written(tmp_path / "a.json", [annotation(each) for each in (0, 1, 1, 0)])], None, None, 0)
    assert found.rows[0]["win rate"] == 25.0
    assert any("every preference is 0 or 1" in note for note in found.notes)
    usual = from_annotations([written(tmp_path / "b.json", [annotation(each) for each in (0, 1, 2)])], None, None, 0)
    assert not any("every preference is 0 or 1" in note for note in usual.notes)


def test_a_leaderboard_is_read_by_its_first_column_and_refused_without_figures(tmp_path: Path) -> None:
    rows = written(tmp_path / "a.json", [annotation(1.5), annotation(1.25)])
    board = written(tmp_path / "board.csv", 'name,win_rate,avg_length\nmine,37.5,n/a\n"other\nmodel",1,2\n')
    found = from_annotations([rows], None, board, 0)
    assert found.rows[0]["published win rate"] == 37.5
    assert "published length" not in found.rows[0]
    with pytest.raises(DataError, match="no leaderboard: a CSV file"):
        from_annotations([rows], None, written(tmp_path / "empty.csv", ""), 0)
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        from_annotations([rows], tmp_path / "gone.csv", None, 0)


# -- outputs and a judge -------------------------------------------------------------------------------------------------


def test_an_instruction_that_comes_twice_meets_each_of_the_baselines_outputs(tmp_path: Path, longest: Function) -> None:
    """By length, out of order: a 3 > 2, b 1 < 2, a 1 < 4, a 5 > 4, which is the last that the baseline has."""
    mine = answers("m", ("a", "xxx"), ("b\r\n", "x"), ("a", "x"), ("a", "xxxxx"))
    base = answers("b", ("b", "xx"), (" a", "xx"), ("a", "xxxx"))
    [found] = judged([written(tmp_path / "m.json", mine)], written(tmp_path / "b.json", base), longest, "longest")
    assert found.wins == (1.0, 0.0, 0.0, 1.0)
    assert found.base_lengths == (2, 2, 4, 4)


def test_conversations_with_the_same_last_turn_are_two_prompts(tmp_path: Path, longest: Function) -> None:
    one, other = turns("hi", "yes?", "go"), turns("hello", "no.", "go")
    assert prompt_key(one) != prompt_key(other)
    assert prompt_key(turns("go")) == prompt_key("go\n")
    mine, base = answers("m", (one, "xx"), (other, "x")), answers("b", (one, "x"), (other, "xx"))
    [found] = judged([written(tmp_path / "m.json", mine)], written(tmp_path / "b.json", base), longest, "longest")
    assert found.wins == (1.0, 0.0)


def test_outputs_of_two_models_in_one_file_are_refused(tmp_path: Path, longest: Function) -> None:
    base = written(tmp_path / "b.json", answers("b", ("a", "x"), ("c", "x")))
    mixed = written(tmp_path / "m.json", [*answers("m", ("a", "x")), *answers("n", ("c", "x"))])
    with pytest.raises(DataError, match="outputs not of one model but of m, n; split the file"):
        judged([mixed], base, longest, "longest")


def test_outputs_have_the_leaderboards_figures_beside_them(tmp_path: Path, longest: Function) -> None:
    base, mine = (written(tmp_path / f"{name}.json", answers(name, ("a", ""), ("b", "x"))) for name in ("base", "mine"))
    board = written(tmp_path / "board.csv", ",win_rate\nmine,12.5\n")
    row = from_outputs([mine], base, longest, "longest", None, board, 0).rows[0]
    assert (row["win rate"], row["published win rate"], row["length"]) == (50.0, 12.5, 0)


def test_the_baseline_of_the_command_is_the_annotators_too(tmp_path: Path) -> None:
    judge = choose_judge("alpaca_eval", None, None, {"baseline": "b.json", "path": "unknown to it"})
    assert getattr(judge, "baseline", None) == "b.json"
    assert getattr(choose_judge("alpaca_eval", ["baseline=c.json"], None, {"baseline": "b.json"}), "baseline", None) == "c.json"


@dataclass(frozen=True)
class Odd(Judge):
    """Returns what it is told to."""

    found: Any = None

    def build(self) -> Any:
        return lambda prompts, responses: self.found


@pytest.mark.parametrize(
    "found",
    [[1, 2], (1.0, 2.0), np.array([1, 2]), np.array([[1.0], [2.0]]), torch.tensor([1.0, 2.0], requires_grad=True),
     [torch.tensor([1.0]), np.float32(2)], [True, 2]],
)  # fmt: skip
def test_whatever_holds_a_number_for_each_response_is_taken(found: Any) -> None:
    scores = asked(Odd(found))(["p", "p"], ["a", "b"])
    assert scores == [1.0, 2.0]
    assert all(type(score) is float for score in scores)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1.0], "Odd returned 1 scores for 2 responses"),
        (None, "Odd returned None, not a list of scores"),
        ([1.0, float("nan")], "Odd returned nan, not a finite number, for response 1: 'b'"),
        (["1", "2"], "Odd returned '1', not a finite number, for response 0"),
        (torch.tensor([1.0, float("inf")]), "not a finite number, for response 1"),
        ([torch.zeros(2), 1.0], "not a finite number, for response 0"),
    ],
)
def test_what_is_no_list_of_scores_is_refused(found: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        asked(Odd(found))(["p", "p"], ["a", "b"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [float(len(each)) for each in responses]", None),
        ("return [float('nan') for _ in responses]", "plugin 'odd sha256:[0-9a-f]+': Odd returned nan, not a finite number"),
        ("raise KeyError('no such thing')", r"plugin 'odd sha256:.*': Odd\.build: its function raised KeyError"),
    ],
)
def test_any_judge_scores_a_file_of_responses(body: str, message: str | None, tmp_path: Path) -> None:
    """One without an option `run` or `path` too."""
    plugin = written(tmp_path / "odd.py", PLUGIN.format(body=body))
    rows = written(tmp_path / "rows.json", answers("m", ("a", "xxx"), ("b", "")))
    call = ["score", "anything", "--responses", rows, "--output", tmp_path / "s.jsonl", "--judge", "odd", "--plugin", plugin]
    done = CliRunner().invoke(make_app(), list(map(str, call)))
    if message is None:
        assert done.exit_code == 0, done.output
        assert [json.loads(line)["score"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == [3.0, 0.0]
    else:
        with pytest.raises(PluginError, match=message):
            raise done.exception or AssertionError


# -- the rest ------------------------------------------------------------------------------------------------------------


def test_prompts_answered_twice_are_said(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    data = shared / "data" / "eval" / "ifeval" / "input_data.jsonl"
    prompts = [str(row["prompt"]) for row in read_rows(data)[:2]]
    rows = answers("m", (prompts[0], ""), (prompts[0], "x"), (prompts[1] + "\n", "y"))
    result = from_responses([written(tmp_path / "m.json", rows)], data)
    assert result.rows[0]["prompts"] == 3
    assert "m: 2 of 541 prompts have a response; the others are not counted" in result.notes
    assert "m: 3 responses to 2 prompts; each of them counts" in result.notes


@pytest.mark.parametrize("text", ["nan", "0,inf", "-1", "", "a"])
def test_temperatures_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="--temperatures"):
        parse_temperatures(text)


def test_a_temperature_given_twice_is_sampled_once() -> None:
    assert parse_temperatures("1, 0,1.0,") == [1.0, 0.0]


@pytest.mark.parametrize(
    "call",
    [["generate", "m", "--prompts", "p.json", "--output", "here"], ["score", "m", "--responses", "p.json", "--output", "here"],
     ["evaluate", "pairs", "--data", "p.json", "--judge", "j", "--output", "file"], ["report", "run", "--output", "here"],
     ["plot", "margins", "run", "--output", "file"], ["diff", "a", "b", "--json", "here"]],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused_before_the_work(call: list[str], tmp_path: Path) -> None:
    """A folder where a file is written, and the other way round."""
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(make_app(), [*call[:-1], str(tmp_path / call[-1])])
    assert done.exit_code == 2
    assert ("directory" if call[-1] == "here" else "file") in done.output


def test_names_are_printed_and_drawn_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and colons are no markup, dollars no formula."""
    name = "org/[bold]m[/x] :key: $a_"
    result = Result("odd", f"of {name}", [{"policy": name, "matched": True, "win": 0.5}, {"policy": "b", "matched": False}])

    def draw(figure: Any) -> None:
        figure.subplots().plot([0, 1], label=name)
        figure.legend()

    show(result, tmp_path, draw)
    printed = capsys.readouterr().out
    assert printed.count(name) == 2
    assert "yes" in printed
    assert json.loads((tmp_path / "odd.json").read_text())["rows"][0] == {"policy": name, "matched": True, "win": 0.5}


def test_extra_keys_and_a_generator_that_is_left_out_are_no_matter(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.jsonl", '{"prompt": "a", "response": "", "score": 3, "meta": {"k": [1]}}\n')
    assert [(answer.output, answer.generator) for answer in read_answers(path)] == [("", "mine")]
