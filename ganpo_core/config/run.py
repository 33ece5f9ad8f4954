"""What a run file means, resolved: components made, paths absolute, every value with its origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ganpo_core.components import Discriminator, Divergence, LatentExtractor, Objective
from ganpo_core.config.sections import AdversaryConfig, DataConfig, ModelConfig, TrainingConfig
from ganpo_core.plugins import Plugins

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class AdversaryPlan:
    """One latent regularizer: what is compared, by whom, and how hard."""

    name: str
    latents: LatentExtractor
    divergence: Divergence
    discriminator: Discriminator | None
    """None for direct distances."""
    config: AdversaryConfig
    form_is_given: bool
    """True where the file itself asks for `form`: a critic that cannot serve it is then an error."""

    @property
    def cross_weight(self) -> float:
        """Of the cross-anchor term: the file's, or the divergence's default; 0 where both sides have the same latents."""
        given = self.config.cross_weight
        if given is None:
            return 0.0 if self.latents.shared_by_sides else self.divergence.cross_weight
        return given


@dataclass(frozen=True)
class RunConfig:
    """A run, ready to be assembled."""

    seed: int
    model: ModelConfig
    data: DataConfig
    objective: Objective
    adversaries: tuple[AdversaryPlan, ...]
    """Those of weight above 0."""
    training: TrainingConfig
    output_dir: Path
    plugins: Plugins
    resolved: Mapping[str, object]
    """The whole run as plain data: written to `run.yaml`, and a valid run file itself."""
    origins: Mapping[str, str]
    """Where each value of `resolved` came from, by dotted path."""
    notes: tuple[str, ...]
    """What a user should know that is not a mistake."""
    trust_remote_code: bool = False
    """Whether a model may run code of its own; from the command line (or `train`'s argument) alone, never from a file."""


def options_of(instance: DataclassInstance) -> dict[str, object]:
    """A section's or a component's fields as plain data."""
    return {key: _plain(value) for key, value in dataclasses.asdict(instance).items()}


def flatten(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """(dotted path, leaf) of nested plain data; a list of plain values is one leaf."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from flatten(child, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _plain(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
