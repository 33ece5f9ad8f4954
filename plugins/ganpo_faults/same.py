"""The same seed gives the same bytes, whatever is looked at, written or drawn beside the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ganpo_faults.site import GAME, Site
from ganpo_faults.trial import Family, Trial

DRAWS = """\
import random
import numpy
import torch
from ganpo_core import hookimpl

@hookimpl
def ganpo_step_finished(report):
    torch.rand(100), random.random(), numpy.random.rand(7)
"""
"""A plugin that draws random numbers after every step."""


def run(site: Site, trials: int) -> Iterator[Trial]:
    """One run as it is, then others that differ in what must not matter."""
    draws = site.folder / "draws.py"
    draws.write_text(DRAWS, encoding="utf-8")
    held_out = {"path": str(site.pairs), "eval_path": str(site.pairs)}
    changes: dict[str, Mapping[str, Any]] = {
        "again": {},
        "evaluation on": {"data": held_out, "training": {"eval_steps": 2}},
        "logging every step": {"training": {"logging_steps": 1}},
        "saving every step": {"training": {"save_steps": 1}},
        "a plugin draws 100 numbers a step": {"plugins": [str(draws)]},
    }
    model = {"path": str(site.model), "disable_dropout": False}
    expected = _train(site, "same_0", {"model": model})
    for number, (name, sections) in enumerate(changes.items(), 1):
        found = _train(site, f"same_{number}", {"model": model, **sections})
        different = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        yield Trial(name, bool(expected) and not different, f"differ: {', '.join(different)}" if different else "")


def exported(folder: Path) -> dict[str, bytes]:
    """The bytes of everything that a finished run exports."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("policy", "adversary")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def _train(site: Site, name: str, sections: Mapping[str, Any]) -> dict[str, bytes]:
    site.ganpo("train", site.run_file(name, **GAME, **sections))
    return exported(site.folder / name)


FAMILY = Family(
    name="same",
    title="same seed with evaluation, logging, save interval or plugin draws changed",
    must="bitwise equal",
    peers="equal for the save interval",
    trials=5,
    run=run,
    short=5,
)
