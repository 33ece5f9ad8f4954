"""A judge from the command line: `--judge reward_model --with path=./rm --with batch_size=16`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ganpo_core import Judge

JudgeName = Annotated[str, typer.Option("--judge", help="Who scores: a judge of `ganpo plugins`.")]
With = Annotated[
    list[str] | None, typer.Option("--with", help="An option of the judge, such as path=./reward_model; repeatable.")
]
Plugins = Annotated[list[str] | None, typer.Option("--plugin", help="Enable a third-party plugin first.")]
Output = Annotated[Path, typer.Option(file_okay=False, help="The folder that the JSON file and the picture are written to.")]
Seed = Annotated[int, typer.Option(min=0, help="Of sampling, and of the bootstrap.")]


def choose_judge(
    name: str, options: Sequence[str] | None, plugins: Sequence[str] | None, defaults: Mapping[str, object] | None = None
) -> Judge:
    """The judge with its options, validated. Raises ConfigError for an unknown name or option.

    `defaults` are options that another argument of the command implies: given to a judge that has them.
    """
    from ganpo_core.config.document import split_override
    from ganpo_core.plugins import load_plugins

    registry = load_plugins(plugins or ()).registry("judge")
    known = {field.name for field in fields(registry[name].component)} if name in registry else set()
    implied = {key: value for key, value in (defaults or {}).items() if key in known}
    given: dict[str, Any] = dict(map(split_override, options or ()))
    made = registry.create(name, {**implied, **given})
    assert isinstance(made, Judge)
    return made
