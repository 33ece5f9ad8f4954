"""YAML as a run file reads it: what is accepted, what is refused, and with which line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ganpo_core.config.document import Document, document_of, parse_document, read_document, split_override
from ganpo_core.errors import ConfigError


def parsed(text: str) -> dict[str, object]:
    return parse_document(text, "run.yaml").data


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_document(text, "run.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-7", 5e-7),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("-3", -3),
        ("1_000", 1000),
        ("1_000_000.5", 1000000.5),
        ("1_", "1_"),
        ("1__000", "1__000"),
        ("0", 0),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ('"true"', "true"),
        ("|\n  5", "5"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    result = parsed(f"key: {text}")["key"]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize("text", ["010", "-007", "0_1"])
def test_a_leading_zero_is_refused_with_its_line(text: str) -> None:
    """YAML 1.1 reads 010 as 8, YAML 1.2 as 10."""
    assert refusal(f"seed: 1\nother: {text}") == (
        f"run.yaml:2: {text} is read differently by YAML 1.1 and 1.2; write it without the leading 0"
    )


def test_a_number_too_long_to_mean_anything_is_refused() -> None:
    """Python refuses to read integers of more than 4300 digits; the reader answers before that."""
    assert refusal("seed: " + "7" * 5000) == "run.yaml:1: a number of 5000 characters; the longest is 100"


def test_a_tab_is_refused_with_its_line() -> None:
    assert refusal("seed: 0\nmodel:\n\tpath: x\n").startswith("run.yaml:3: not valid YAML: ")


def test_a_control_character_is_refused_with_its_line() -> None:
    assert refusal("seed: 0\nname: a\x07b\n").startswith("run.yaml:2: not valid YAML: character ")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3\r\n")
    assert read_document(path).data == {"seed": 3}


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("seed: 3".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"run\.yaml: is not UTF-8 text"):
        read_document(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.yaml: no such file"):
        read_document(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_document(tmp_path)


def test_a_key_given_twice_names_both_lines() -> None:
    text = "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n"
    assert refusal(text).splitlines() == [
        "run.yaml:5: b.c: given twice, first on line 3; remove one",
        "run.yaml:6: a: given twice, first on line 1; remove one",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.getcwd []",
        "a: !!python/name:os.system",
        "a: !!python/object:object {}",
        "a: !!str 5",
        "a: !mine 5",
        "a: !!set {x}",
        "!!python/tuple [1]",
    ],
)
def test_tags_are_refused(text: str) -> None:
    assert refusal(text).startswith("run.yaml:1: tag ")
    assert "is not allowed; write plain YAML" in refusal(text)


def test_merge_keys_are_refused_rather_than_ignored() -> None:
    text = "x-base: &base {a: 1}\nmodel:\n  <<: *base\n"
    assert refusal(text) == "run.yaml:3: model.<<: merge keys are not supported; write the keys out"


def test_anchors_and_aliases_copy_their_value() -> None:
    data = parsed("x-base: &base {a: 1}\nmodel: *base\n")
    assert data["model"] == {"a": 1}
    assert data["model"] is not data["x-base"]


def test_an_alias_bomb_is_refused_quickly() -> None:
    """Nine levels of nine aliases: 9^9 = 387 million values from 300 bytes."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    start = time.perf_counter()
    assert "more than 10000 values; are anchors and aliases expanding?" in refusal("\n".join(levels))
    assert time.perf_counter() - start < 5


def test_an_anchor_that_contains_itself_is_refused() -> None:
    assert "run.yaml:1: nested more than 64 deep; does an anchor contain itself?" in refusal("x-a: &a [1, *a]")
    assert "does an anchor contain itself?" in refusal("x-a: &a {b: *a}")


def test_deep_nesting_is_refused_without_running_out_of_stack() -> None:
    assert refusal("a: " + "[" * 3000 + "]" * 3000) == "run.yaml:1: nested more than 64 deep"
    assert refusal("\n".join(" " * i + f"k{i}:" for i in range(600))) == "run.yaml:65: nested more than 64 deep"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~"])
def test_an_empty_file_is_said_to_be_empty(text: str) -> None:
    assert refusal(text) == "run.yaml: the file is empty"


@pytest.mark.parametrize("text", ["- a\n- b\n", "words", "7"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert refusal(text) == "run.yaml: a run file is a mapping of sections, such as `model:` and `data:`"


def test_two_documents_in_one_file_are_refused() -> None:
    assert refusal("a: 1\n---\nb: 2\n") == "run.yaml:2: not valid YAML: but found another document"


def test_a_key_that_is_no_word_is_refused() -> None:
    assert refusal("a: 1\n[b]: 2\n") == "run.yaml:2: a key must be a word"


def test_origin_is_the_line_of_the_nearest_written_key() -> None:
    document = parse_document("a:\n  b: [1, {c: 2}]\n", "run.yaml")
    assert document.origin("a.b.1.c") == "run.yaml:2"
    assert document.origin("a.zzz") == "run.yaml:1"
    assert document.origin("other") == "run.yaml"


# -- overrides -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("objective.beta=0.2", ("objective.beta", 0.2)),
        ("training.learning_rate=5e-7", ("training.learning_rate", 5e-7)),
        ("training.report_to=[wandb]", ("training.report_to", ["wandb"])),
        ("model.lora={r: 8}", ("model.lora", {"r": 8})),
        ("data.split=", ("data.split", None)),
        ("data.path=a=b.jsonl", ("data.path", "a=b.jsonl")),
    ],
)
def test_an_override_is_a_path_and_a_yaml_value(text: str, pair: tuple[str, object]) -> None:
    assert split_override(text) == pair


@pytest.mark.parametrize("text", ["objective.beta", "=3", "objective..beta=3", ".beta=3"])
def test_what_is_no_override_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an override; write key=value, such as objective\.beta=0\.2"):
        split_override(text)


@pytest.mark.parametrize("value", ["[", "!!python/name:os.system", "[" * 3000, "010", "&a [*a]"])
def test_the_value_of_an_override_is_read_as_strictly_as_a_file(value: str) -> None:
    with pytest.raises(ConfigError, match=r"command line: objective\.beta: "):
        split_override(f"objective.beta={value}")


def test_an_override_makes_missing_sections_and_reaches_into_lists() -> None:
    document = Document({"adversaries": [{"weight": 1}]})
    document.override("training.max_steps", 3)
    document.override("adversaries.0.weight", 2)
    assert document.data == {"adversaries": [{"weight": 2}], "training": {"max_steps": 3}}
    assert document.origin("training.max_steps") == "command line"


def test_overriding_a_whole_section_forgets_the_lines_of_the_old_one() -> None:
    document = parse_document("objective:\n  use: dpo\n  beta: 0.1\n", "run.yaml")
    document.override("objective", {"use": "dpo", "beta": 0.2})
    assert document.origin("objective.beta") == "command line"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("seed.x", "command line: seed.x: 'seed' is not a section"),
        ("items.3", "command line: items.3: 'items' is a list of 1; no item '3'"),
        ("items.3.a", "command line: items.3.a: 'items.3' is not a section"),
    ],
)
def test_an_override_that_no_section_can_hold_is_refused(path: str, message: str) -> None:
    document = parse_document("seed: 0\nitems: [{a: 1}]\n", "run.yaml")
    with pytest.raises(ConfigError) as caught:
        document.override(path, 1)
    assert str(caught.value) == message


def test_a_mapping_becomes_a_document_of_its_own() -> None:
    written = {"model": {"path": Path("a/b")}, "items": ({"c": 1},)}
    document = document_of(written)
    assert document.data == {"model": {"path": "a/b"}, "items": [{"c": 1}]}
    document.override("items.0.c", 2)
    assert written["items"] == ({"c": 1},)


def test_a_mapping_with_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match="the run: model: keys are text, got 3"):
        document_of({"model": {3: 1}})


def test_a_file_that_asks_for_another_yaml_is_refused() -> None:
    assert refusal("%YAML 1.1\n---\nkey: no") == "run.yaml:1: %YAML: only version 1.2 is read; remove the line"
    assert parsed("%YAML 1.2\n---\nkey: no") == {"key": "no"}


@pytest.mark.parametrize("place", ["00", "\u00b2", "\u0663", "-1", "2"])
def test_an_item_of_a_list_is_named_by_its_place_alone(place: str) -> None:
    document = parse_document("items: [{a: 1}, {a: 2}]", "run.yaml")
    with pytest.raises(ConfigError, match=f"items.{place}.*is not a section"):
        document.override(f"items.{place}.a", 3)
    with pytest.raises(ConfigError, match=f"is a list of 2; no item '{place}'"):
        document.override(f"items.{place}", 3)


def test_a_section_that_an_override_made_was_written_on_the_command_line() -> None:
    document = parse_document("one: 1", "run.yaml")
    document.override("trianing.max_steps", 3)
    assert document.origin("trianing") == "command line"
