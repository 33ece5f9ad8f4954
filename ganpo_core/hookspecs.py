"""The hooks. All but the last name things and take no argument, so the order of plugins cannot change a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

from ganpo_core.components import Discriminator, Divergence, Judge, LatentExtractor, Objective
from ganpo_core.types import StepReport

if TYPE_CHECKING:
    import typer

hookspec = pluggy.HookspecMarker("ganpo")
hookimpl = pluggy.HookimplMarker("ganpo")
"""Marks a plugin's function as the implementation of the hook of the same name."""


@hookspec
def ganpo_objectives() -> Mapping[str, type[Objective]]:  # type: ignore[empty-body]
    """Names of preference losses and their classes."""


@hookspec
def ganpo_latent_extractors() -> Mapping[str, type[LatentExtractor]]:  # type: ignore[empty-body]
    """Names of latent extractors and their classes."""


@hookspec
def ganpo_divergences() -> Mapping[str, type[Divergence]]:  # type: ignore[empty-body]
    """Names of divergences and their classes."""


@hookspec
def ganpo_discriminators() -> Mapping[str, type[Discriminator]]:  # type: ignore[empty-body]
    """Names of discriminators and their classes."""


@hookspec
def ganpo_judges() -> Mapping[str, type[Judge]]:  # type: ignore[empty-body]
    """Names of judges of responses and their classes."""


@hookspec
def ganpo_commands() -> Mapping[str, typer.Typer]:  # type: ignore[empty-body]
    """Names of command groups that join the `ganpo` command line; an app of one command is that command."""


@hookspec
def ganpo_step_finished(report: StepReport) -> None:
    """Observe one finished optimizer step on the main process. Return nothing; change nothing."""
