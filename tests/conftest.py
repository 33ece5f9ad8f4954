"""What every test relies on: no network, one thread, and the shared data where it lies beside the checkout."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
# pytest's importlib mode puts no folder on the path.
sys.path.insert(0, str(Path(__file__).parent / "fixtures"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real preference data and a small pretrained model."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


WORDS = [f"w{index}" for index in range(24)]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of width 16 in float32 and a word-level tokenizer."""
    from ganpo_faults.model import write_model

    return Path(write_model(str(tmp_path_factory.mktemp("tiny_model")), WORDS, dropout=0.0))


@pytest.fixture(scope="session")
def tiny_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 preference pairs of random words, of ragged lengths, as JSONL."""
    draw = random.Random(3)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))

    rows = [
        {"prompt": f"<bos> {text(1, 5)}", "chosen": f" {text(2, 9)}", "rejected": f" {text(1, 7)}"} for _ in range(48)
    ]
    path = tmp_path_factory.mktemp("tiny_pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tiny_run(tiny_model: Path, tiny_pairs: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes a run of the tiny model on the tiny pairs as a mapping; keyword arguments replace whole sections."""

    def make(**sections: Any) -> dict[str, Any]:
        return {
            "model": {"path": str(tiny_model)},
            "data": {"path": str(tiny_pairs)},
            "objective": {"use": "dpo"},
            "training": {"learning_rate": 1e-3, "max_steps": 3, "per_device_train_batch_size": 4, "save_steps": None},
            "output_dir": str(tmp_path / "out"),
            **sections,
        }

    return make
