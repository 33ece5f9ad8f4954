"""A judge from the command line: `--judge reward_model --with path=./rm --with batch_size=16`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ganpo_core import Judge, component

JudgeName = Annotated[str, typer.Option("--judge", help="Who scores: a judge of `ganpo plugins`.")]
With = Annotated[
    list[str] | None, typer.Option("--with", help="An option of the judge, such as path=./reward_model; repeatable.")
]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="Enable a third-party plugin first.")]
Output = Annotated[Path, typer.Option(help="The folder that the JSON file and the picture are written to.")]
Seed = Annotated[int, typer.Option(min=0, help="Of sampling, and of the bootstrap.")]


def choose_judge(name: str, options: Sequence[str] | None, plugins: Sequence[str] | None) -> Judge:
    """The judge with its options, validated. Raises ConfigError for an unknown name or option."""
    from ganpo_core.config.document import split_override

    given: dict[str, Any] = dict(map(split_override, options or ()))
    made = component("judge", name, plugins=plugins or (), **given)
    assert isinstance(made, Judge)
    return made
