"""Names of one kind of component, with who provides each; collisions and near-misses said plainly."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ganpo_core.components import Component, Discriminator, Divergence, Judge, LatentExtractor, Objective
from ganpo_core.errors import ConfigError, PluginError, is_own
from ganpo_core.options import validate
from ganpo_core.suggest import closest, did_you_mean


@dataclass(frozen=True)
class Provider:
    """The plugin that an entry comes from."""

    plugin: str
    distribution: str | None
    """None for a single file."""
    version: str | None

    def __str__(self) -> str:
        return f"{self.plugin} {self.version}" if self.version else self.plugin


@dataclass(frozen=True)
class Kind:
    """One kind of component: how the run file calls it, the hook that names its members, their base class."""

    name: str
    section: str
    """The section of the run file in which `use:` names one."""
    hook: str
    base: type[Component]
    in_run_file: bool = True
    """False for what is named on the command line alone."""


KINDS = (
    Kind("objective", "objective", "ganpo_objectives", Objective),
    Kind("latent_extractor", "latents", "ganpo_latent_extractors", LatentExtractor),
    Kind("divergence", "divergence", "ganpo_divergences", Divergence),
    Kind("discriminator", "discriminator", "ganpo_discriminators", Discriminator),
    Kind("judge", "judge", "ganpo_judges", Judge, in_run_file=False),
)


@dataclass(frozen=True)
class Entry:
    """A registered class and its provider."""

    component: type[Component]
    provider: Provider


class Registry(Mapping[str, Entry]):
    """name -> Entry for one kind; filled once, while plugins load."""

    def __init__(self, kind: Kind, available: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self._available = available
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            raise ConfigError(self.unknown(name))
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def add(self, name: str, component: Any, provider: Provider) -> None:
        """Register a class; `component` is whatever a plugin returned. Raises PluginError if it cannot be one."""
        kind, base = self.kind.name, self.kind.base
        if not isinstance(name, str) or not name:
            raise PluginError(f"plugin '{provider}': {self.kind.hook} returned the name {name!r}; names are text")
        if not (isinstance(component, type) and issubclass(component, base)):
            raise PluginError(
                f"plugin '{provider}': {kind} '{name}' is {component!r}, not a class that inherits "
                f"ganpo_core.{base.__name__}"
            )
        if "__annotations__" in vars(component) and "__dataclass_fields__" not in vars(component):
            raise PluginError(
                f"plugin '{provider}': {kind} '{name}' is not a dataclass, so it has no options; "
                f"put @dataclass(frozen=True) above {component.__name__}"
            )
        if name in self._entries:
            other = self._entries[name].provider
            raise PluginError(
                f"{kind} '{name}' is provided by both '{other.plugin}' and '{provider.plugin}'; rename one"
                f" ({self.kind.hook} of {other} and {provider})"
            )
        self._entries[name] = Entry(component, provider)

    def create(
        self, name: str, options: Mapping[str, object], path: str | None = None, beside: Collection[str] = ()
    ) -> Component:
        """A validated instance. Raises ConfigError with every mistake, each named by its path under `path`.

        `beside` are keys that its owner takes out of the same mapping, for the suggestions.
        """
        where, entry = self.kind.section if path is None else path, self[name]
        with naming(entry.provider, f"{entry.component.__name__}.__init__"):
            component: Component = validate(entry.component, options, where, beside)
        self.settle(component, entry.provider, where)
        return component

    def settle(self, component: Component, provider: Provider, path: str) -> None:
        """Let a component know its plugin, and make the components inside it."""
        object.__setattr__(component, "_provider", provider)
        with naming(provider, f"{type(component).__name__}.bind"):
            component.bind(self.create, path)

    def unknown(self, name: str) -> str:
        """What a user reads who asked for a name that nobody registered."""
        hint = self._usual_name(name) or did_you_mean(name, self)
        message = f"{self.kind.name} '{name}' is not known.{hint} Known: {', '.join(self) or 'none'}"
        if self._available:
            nearest = closest(name, self._available) or self._available[0]
            message += f". Installed but not enabled: {', '.join(self._available)}"
            message += f"; enable one with `plugins: [{nearest}]`"
        return message

    def _usual_name(self, name: str) -> str:
        """Who calls which component by a name that is another's here; empty where nobody does."""
        for own, entry in self._entries.items():
            if name in entry.component.known_as:
                who, _, options = entry.component.known_as[name].partition(": ")
                written = f"{{use: {own}, {options}}}" if options else f"use: {own}"
                return f" {who} calls '{own}' so: write `{written}`."
        return ""


@contextmanager
def naming(provider: Provider, what: str) -> Iterator[None]:
    """Turn whatever a plugin's code raises into a PluginError that names the plugin, its version and `what` was called."""
    try:
        yield
    except BaseException as error:
        if is_own(error):
            raise
        raise PluginError(f"plugin '{provider}': {what} raised {error!r}") from error


def provider_of(component: Component) -> Provider | None:
    """The plugin that a component is of; None for one that was made by hand."""
    found = vars(component).get("_provider")
    return found if isinstance(found, Provider) else None


def source_file(component: type[Component]) -> str:
    """The file that defines a component."""
    return str(sys.modules[component.__module__].__file__)
