"""The state of every random generator that a run may draw from, as plain data and back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def randomness() -> dict[str, Any]:
    """The state of all generators that this process draws from: of GPUs, the one it is on."""
    numpy: Any = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in own_devices()],
        "numpy": numpy,
        "python": (version, internal, gauss),
    }


def own_devices() -> list[int]:
    """The GPU that this process is on, as a list; none without one. Others that it sees are not its own."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []


def seed_all(seed: int) -> None:
    """Start every generator from a run's seed, so that a plugin that draws from any of them repeats itself."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def set_randomness(state: Mapping[str, Any]) -> None:
    """Restore `randomness()`, or the same `as_plain`."""
    torch.set_rng_state(torch.as_tensor(state["torch"], dtype=torch.uint8))
    saved = state["cuda"]
    for device in own_devices() if len(saved) else []:
        # Older checkpoints hold every GPU that was visible.
        words = saved[device] if device < len(saved) else saved[0]
        torch.cuda.set_rng_state(torch.as_tensor(words, dtype=torch.uint8), device)
    name, words, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def as_plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """`randomness()` as JSON holds it."""
    name, words, position, has_gauss, gauss = state["numpy"]
    version, internal, python_gauss = state["python"]
    return {
        "torch": state["torch"].tolist(),
        "cuda": [words.tolist() for words in state["cuda"]],
        "numpy": [name, [int(word) for word in words], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), python_gauss],
    }


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Whatever is drawn inside, the run's own draws go on as if it had not been."""
    before = randomness()
    try:
        yield
    finally:
        set_randomness(before)
