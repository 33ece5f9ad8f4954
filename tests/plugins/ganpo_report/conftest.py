"""Lets the tests of this folder import `run_samples` (pytest's importlib mode puts no folder on the path), and makes runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from run_samples import GOOD, MakeRun, write_run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`write_run` into a folder of the test's own."""
    return partial(write_run, tmp_path)


@pytest.fixture
def good() -> dict[str, Any]:
    """A copy of the metrics of a run as it should be."""
    return dict(GOOD)
