"""Paths of a run file: relative to it, or names on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganpo_core.config import load_run
from ganpo_core.config.paths import DATA_SUFFIXES
from ganpo_core.errors import ConfigError


def test_relative_paths_are_relative_to_the_run_file(
    write_run: Callable[..., Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    config = load_run(write_run(data={"sources": [{"path": "./pairs.jsonl"}], "eval_path": "pairs.jsonl"}))
    assert config.model.path == str(run_folder / "model")
    assert config.data.sources[0].path == config.data.eval_path == str(run_folder / "pairs.jsonl")
    assert config.output_dir == run_folder / "out"


def test_of_a_mapping_they_are_relative_to_the_working_folder(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run_folder)
    written = {"model": {"path": "model"}, "data": {"path": "pairs.jsonl"}, "objective": {"use": "dpo"}, "output_dir": "o"}
    assert load_run(written).data.path == str(run_folder / "pairs.jsonl")


@pytest.mark.parametrize("name", ["gpt2", "google/gemma-2-2b-it", "trl-lib/ultrafeedback_binarized"])
def test_hub_names_are_left_as_they_are(write_run: Callable[..., Path], name: str) -> None:
    config = load_run(write_run(model={"path": name}, data={"path": name}))
    assert (config.model.path, config.data.path) == (name, name)


def test_a_folder_beside_the_run_file_wins_over_a_hub_name(write_run: Callable[..., Path], run_folder: Path) -> None:
    (run_folder / "google" / "gemma").mkdir(parents=True)
    (run_folder / "google" / "gemma" / "config.json").write_text("{}", encoding="utf-8")
    assert load_run(write_run(model={"path": "google/gemma"})).model.path == str(run_folder / "google" / "gemma")


@pytest.mark.parametrize(
    "path",
    ["./nope", "/nope/there", "a/b/c", "nope.jsonl", "data/nope.tsv", "nope.jsonl.gz", "~nobody_of_this_name/x", "../n"],
)
def test_what_looks_like_a_path_must_exist(problems: Callable[..., list[str]], path: str) -> None:
    (message,) = problems(data={"path": path})
    assert message.startswith(f"run.yaml:4: data.path: no data file or folder at '{path}' (")


def test_every_path_is_checked(problems: Callable[..., list[str]]) -> None:
    found = problems(
        model={"path": "./a", "reference": "./b"},
        data={"sources": [{"path": "pairs.jsonl"}, {"path": "./c"}], "eval_path": "./d"},
    )
    assert [message.split(": ")[1] for message in found] == [
        "model.reference",
        "model.path",
        "data.eval_path",
        "data.sources.1.path",
    ]


def test_a_model_is_a_folder_with_a_config(problems: Callable[..., list[str]], run_folder: Path) -> None:
    (run_folder / "empty").mkdir()
    (message,) = problems(model={"path": "empty"})
    assert message == (
        f"run.yaml:2: model.path: '{run_folder}/empty' holds no config.json, so it is not a model folder"
    )
    (message,) = problems(model={"path": "pairs.jsonl"})
    assert message.endswith("pairs.jsonl' is a file; a model is a folder or a name on the hub")


@pytest.mark.parametrize("key", ["model", "data"])
def test_an_empty_path_is_not_the_folder_of_the_run_file(problems: Callable[..., list[str]], key: str) -> None:
    (message,) = problems(**{key: {"path": ""}})
    assert message.endswith(f"{key}.path: must not be empty")


def test_the_output_is_no_file(problems: Callable[..., list[str]], run_folder: Path) -> None:
    (message,) = problems(output_dir="pairs.jsonl")
    assert message.endswith(f": output_dir: '{run_folder}/pairs.jsonl' is a file")


def test_home_is_expanded(
    write_run: Callable[..., Path], run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(run_folder))
    config = load_run(write_run(data={"path": "~/pairs.jsonl"}, output_dir="~/out"))
    assert config.data.path == str(run_folder / "pairs.jsonl")
    assert config.output_dir == run_folder / "out"


def test_either_a_path_or_sources(problems: Callable[..., list[str]]) -> None:
    message = "run.yaml:3: data: give either `path` or `sources`"
    assert problems(data={"max_length": 12}) == [message]
    assert problems(data={"path": "pairs.jsonl", "sources": [{"path": "pairs.jsonl"}]}) == [message]


def test_the_suffixes_are_those_that_have_a_reader() -> None:
    from ganpo_core.data.files import FILE_READERS

    assert set(DATA_SUFFIXES) == set(FILE_READERS)


def test_a_null_character_is_refused(problems: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError):
        load_run({"model": {"path": "./a\0b"}})
