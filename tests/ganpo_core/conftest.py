"""Run files that need no weights: a folder that looks like a model, and one pair of data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError

LIGHT = """\
model: {path: model}
data: {path: pairs.jsonl}
objective: {use: dpo}
output_dir: out
"""
"""Four lines: what is appended starts on line 5."""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A folder with `model/config.json` and `pairs.jsonl`."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    return tmp_path


@pytest.fixture
def write_run(run_folder: Path) -> Callable[..., Path]:
    """Writes run.yaml: four valid lines and `more`; or `whole`; or the valid sections with some of them replaced."""

    def write(more: str = "", *, whole: str | None = None, **sections: Any) -> Path:
        text = LIGHT + more if whole is None else whole
        if sections:
            text = yaml.safe_dump({**yaml.safe_load(LIGHT), **sections}, sort_keys=False)
        path = run_folder / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def problems(write_run: Callable[..., Path]) -> Callable[..., list[str]]:
    """The mistakes that loading such a file reports; takes what `write_run` takes, and `overrides`."""

    def report(more: str = "", *, overrides: list[str] | None = None, **written: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_run(write_run(more, **written), overrides or [])
        return list(caught.value.problems)

    return report
