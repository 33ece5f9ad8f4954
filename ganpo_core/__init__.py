"""Latent adversarial regularization of offline preference optimization, recombined from plugins.

What a plugin author and a script import, and nothing else.
"""

from __future__ import annotations

from ganpo_core import isolation

isolation.leave_working_folder()  # before anything is imported that a file of the same name could stand in for

# isort: split
from collections.abc import Mapping, Sequence
from pathlib import Path

from ganpo_core.components import (
    Component,
    Create,
    Discriminator,
    Divergence,
    Fraction,
    Judge,
    LatentExtractor,
    Need,
    NonNegativeFloat,
    NonNegativeInt,
    Objective,
    PositiveFloat,
    PositiveInt,
    Probability,
    Prompt,
    Scorer,
)
from ganpo_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GanpoError,
    PluginError,
    StoppedError,
    TrainingError,
    first_line,
)
from ganpo_core.hookspecs import hookimpl
from ganpo_core.types import (
    BatchStatistic,
    GeneratorForm,
    ImageFeatures,
    Latents,
    Layer,
    Module,
    PairLogps,
    PairLoss,
    ResponseLoss,
    Scores,
    Source,
    StepReport,
    TokenLogps,
    TokenMap,
)

__version__ = "0.1.0"

__all__ = [
    "BatchStatistic",
    "CheckpointError",
    "Component",
    "ConfigError",
    "Create",
    "DataError",
    "Discriminator",
    "Divergence",
    "Fraction",
    "GanpoError",
    "GeneratorForm",
    "ImageFeatures",
    "Judge",
    "LatentExtractor",
    "Latents",
    "Layer",
    "Module",
    "Need",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Objective",
    "PairLogps",
    "PairLoss",
    "PluginError",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Prompt",
    "ResponseLoss",
    "Scorer",
    "Scores",
    "Source",
    "StepReport",
    "StoppedError",
    "TokenLogps",
    "TokenMap",
    "TrainingError",
    "component",
    "first_line",
    "hookimpl",
    "train",
]


def component(kind: str, name: str, /, *, plugins: Sequence[str] = (), **options: object) -> Component:
    """A validated instance of a registered component, e.g. `component("objective", "dpo", beta=0.1)`.

    `kind` is objective, latent_extractor, divergence, discriminator or judge; `plugins` enables third-party plugins as the
    run file's `plugins:` does. Raises ConfigError for an unknown name or option.
    """
    from ganpo_core.plugins import load_plugins

    return load_plugins(plugins).registry(kind).create(name, options)


def train(
    run: str | Path | Mapping[str, object],
    overrides: Mapping[str, object] | Sequence[str] = (),
    resume: bool = False,
    allow: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Path:
    """Run a file (or a mapping of the same shape) and return its output folder.

    `overrides` are `{"objective.beta": 0.2}` or `["objective.beta=0.2"]`; relative paths are relative to the run
    file, or to the working folder for a mapping. `allow` are keys that may differ from the run that is resumed.
    `trust_remote_code` lets a model run Python code of its own. Raises GanpoError for whatever a user can fix, and
    StoppedError, with everything saved, after SIGTERM or SIGINT.
    """
    from ganpo_core.config import load_run
    from ganpo_core.training import run_training

    return run_training(load_run(run, overrides, trust_remote_code), resume=resume, allow=allow)
