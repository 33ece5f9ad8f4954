"""Generators of GPUs: the one a process is on is its own, and others may come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from run_files import SMALL_GAME
from torch import Tensor

from ganpo_core.adversary.build import build_regularizers
from ganpo_core.config import load_run
from ganpo_core.randomness import as_plain, kept_randomness, randomness, set_randomness
from ganpo_core.types import Latents

MakeRun = Callable[..., dict[str, Any]]


class Machine:
    """GPUs that have generators and nothing else: a state is four bytes."""

    def __init__(self, count: int, current: int) -> None:
        self.states = [torch.full((4,), index + 1, dtype=torch.uint8) for index in range(count)]
        self.current = current

    def seed_all(self, seed: int) -> None:
        """As torch.manual_seed does: every generator is another one."""
        self.states = [torch.full((4,), 200 + index, dtype=torch.uint8) for index in range(len(self.states))]

    def get(self, device: int) -> Tensor:
        """IndexError for a GPU that is not there."""
        return self.states[device].clone()

    def set(self, state: Tensor, device: int) -> None:
        """IndexError for a GPU that is not there."""
        self.states[device] = state

    def values(self) -> list[int]:
        """A number for each generator."""
        return [int(state[0]) for state in self.states]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], Machine]:
    """Puts a machine of `count` GPUs in the place of this one's, with the process on GPU `current`."""

    def put(count: int, current: int) -> Machine:
        made = Machine(count, current)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
        monkeypatch.setattr(torch.cuda, "get_rng_state", made.get)
        monkeypatch.setattr(torch.cuda, "set_rng_state", made.set)
        monkeypatch.setattr(torch.cuda, "manual_seed_all", made.seed_all)
        return made

    return put


def test_only_the_generator_of_the_process_own_gpu_is_kept(machine: Callable[[int, int], Machine]) -> None:
    here = machine(2, 1)
    kept = as_plain(randomness())
    assert kept["cuda"] == [[2, 2, 2, 2]]
    with kept_randomness():
        here.set(torch.full((4,), 9, dtype=torch.uint8), 1)
    assert here.values() == [1, 2]
    there = machine(1, 0)
    set_randomness(kept)
    assert there.values() == [2]


@pytest.mark.parametrize(
    ("count", "current", "expected"), [(1, 0, [50]), (2, 0, [50, 2]), (2, 1, [1, 60]), (3, 2, [1, 2, 50])]
)
def test_a_checkpoint_that_holds_every_visible_gpu_is_read(
    count: int, current: int, expected: list[int], machine: Callable[[int, int], Machine]
) -> None:
    """As they were written once, here of two GPUs: each process takes its own, or the first."""
    here = machine(count, current)
    set_randomness({**as_plain(randomness()), "cuda": [[50] * 4, [60] * 4]})
    assert here.values() == expected


def test_critics_leave_the_generator_of_the_gpu_alone(tiny_run: MakeRun, machine: Callable[[int, int], Machine]) -> None:
    config = load_run(tiny_run(**SMALL_GAME))
    latents = Latents(torch.ones(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))
    cpu = torch.device("cpu")
    here = machine(2, 1)
    build_regularizers(
        config, lambda plan, count: iter([latents]), torch.float32, cpu, 3, lambda tensor: tensor, lambda rows: rows
    )
    assert here.values()[1] == 2
