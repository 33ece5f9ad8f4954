"""Each family's model and rows, made once, and runs of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vision_families import FAMILIES, UNLISTED, save_family, write_rows
from vision_runs import COUNTS, RunOf


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """(model, rows) of a family, made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            sizes = ((8, 8), (24, 16))
            rows = write_rows(folder, COUNTS, chat={**FAMILIES, **UNLISTED}[name][1] is not None, sizes=sizes)
            made[name] = save_family(name, folder / "model"), rows
        return made[name]

    return get


@pytest.fixture
def run_of(families: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> RunOf:
    """A run of a family as a mapping; keyword arguments replace whole sections."""

    def make(name: str, **sections: Any) -> dict[str, Any]:
        model, rows = families(name)
        return {
            "model": {"path": str(model)},
            "data": {"path": str(rows), "max_length": 200},
            "objective": {"use": "dpo"},
            "training": {
                "learning_rate": 1e-3, "max_steps": 5, "per_device_train_batch_size": 3, "logging_steps": 1, "save_steps": 2,
            },
            "output_dir": str(tmp_path / "out"),
            **sections,
        }

    return make
