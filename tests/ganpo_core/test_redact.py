"""Credentials leave no trace in what is printed, raised or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganpo_core.errors import ConfigError, DataError
from ganpo_core.redact import redact, redact_all

ENVIRONMENT = {"HF_TOKEN": "canary-of-the-hub", "PGPASSWORD": "canary-of-the-base", "HOME": "/home/somebody"}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:canary@host/data.jsonl", "https://***@host/data.jsonl"),
        ("no data at 's3://key:can/ary@bucket/x'", "no data at 's3://key:can/ary@bucket/x'"),  # no URL: a path with an @
        ("https://canary@host", "https://***@host"),
        ("https://host/x?token=canary&page=2", "https://host/x?token=***&page=2"),
        ("https://host/x?X-Amz-Signature=canary", "https://host/x?X-Amz-Signature=***"),
        ("api_key=canary and more", "api_key=*** and more"),
        ("Authorization: Bearer canarycanary", "Authorization: Bearer ***"),
        ("hf_canarycanarycanary1 was refused", "*** was refused"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOjF9.c2lnY2FuYXJ5", "***"),
        ("ghp_canarycanarycanarycanary", "***"),
        ("said canary-of-the-hub twice: canary-of-the-hub", "said *** twice: ***"),
        ("canary-of-the-base", "***"),
        ("/home/somebody/run.yaml:3: seed: 5 @ noon", "/home/somebody/run.yaml:3: seed: 5 @ noon"),
        ("google/gemma-2-2b-it, max_tokens=5, 12:30", "google/gemma-2-2b-it, max_tokens=5, 12:30"),
    ],
)
def test_credentials_are_masked_and_nothing_else(text: str, masked: str) -> None:
    assert redact(text, ENVIRONMENT) == masked


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_KEY_PATH", "/home/somebody/.ssh/id"),
        ("TOKENIZERS_PARALLELISM", "false-or-true"),
        ("KEYBOARD_LAYOUT", "german-layout"),
        ("API_KEY", "short"),
    ],
)
def test_a_path_a_switch_and_a_short_word_are_no_secrets(name: str, value: str) -> None:
    assert redact(f"it says {value}", {name: value}) == f"it says {value}"


def test_every_error_masks_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-of-the-tracker")
    assert str(DataError("at https://u:p@h: canary-of-the-tracker")) == "at https://***@h: ***"
    error = ConfigError(["one canary-of-the-tracker", "two"])
    assert error.problems == ("one ***", "two")
    assert str(error) == "one ***\ntwo"


def test_nested_plain_data_are_masked_in_place_of_their_kind() -> None:
    assert redact_all({"a": ["https://u:p@h", 1, None], "b": {"c": True}}) == {
        "a": ["https://***@h", 1, None],
        "b": {"c": True},
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "/canary+of/the+cloud"),  # one key in 64 begins so
        ("GITHUB_PAT", "canary-of-the-forge"),
        ("NPM_AUTH", "canary-of-the-registry"),
        ("SMTP_PASS", "canary-of-the-post"),
        ("DATABASE_CREDS", "canary-of-the-base"),
    ],
)
def test_a_secret_is_known_by_the_name_of_its_variable(name: str, value: str) -> None:
    assert redact(f"it says {value}", {name: value}) == "it says ***"


def test_a_file_that_is_there_is_a_place_whatever_its_variable_is_called(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text("{}")
    value = str(tmp_path / "credentials.json")
    assert redact(f"reads {value}", {"GOOGLE_APPLICATION_CREDENTIALS": value}) == f"reads {value}"
