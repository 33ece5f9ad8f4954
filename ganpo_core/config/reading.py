"""Sections become instances, while mistakes and origins are collected on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ganpo_core.config.document import Document, find
from ganpo_core.config.run import flatten, options_of
from ganpo_core.errors import ConfigError, PluginError
from ganpo_core.options import field_names, validate
from ganpo_core.plugins import Plugins, load_plugins, resolve_file
from ganpo_core.registry import naming
from ganpo_core.suggest import did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Options = TypeVar("Options", bound="DataclassInstance")


@dataclass(frozen=True)
class PresetPart:
    """What a preset says about one section."""

    name: str = ""
    options: Mapping[str, object] = field(default_factory=dict)


class Reading:
    """One reading of one document. What cannot be made is None, and its mistakes are in `problems`."""

    def __init__(self, document: Document, folder: Path) -> None:
        self.document = document
        self.folder = folder
        self.plugin_names = plugin_names(document)
        self.plugins = self._load_plugins()
        self.problems: list[str] = []
        self.origins: dict[str, str] = {"plugins": self._origin_or_default("plugins")}

    def problem(self, path: str, message: str) -> None:
        """Note a mistake in the value at `path`."""
        self.problems.append(f"{self.document.origin(path)}: {message}")

    def scalar(self, path: str, expected: type[T], default: T | None = None) -> T | None:
        """A value outside of any section; required unless it has a default."""
        found, value = find(self.document.data, path)
        self.origins[path] = self._origin_or_default(path)
        if not found and default is not None:
            return default
        if value is None:
            self.problem(path, f"{path}: required, and missing")
        elif type(value) is not expected:
            self.problem(path, f"{path}: expected {_WORDS[expected]}, got {value!r}")
        else:
            return value
        return None

    def mapping(self, path: str, required: bool = True) -> dict[str, Any] | None:
        """The section at `path`, without its mistakes looked for; empty where it may be left out and is."""
        section = self.document.get(path)
        if section is None and not required:
            return {}
        if section is None:
            self.problem(path, f"{path}: required section is missing")
        elif not isinstance(section, dict):
            self.problem(path, f"{path}: expected a section of `key: value` lines, got {section!r}")
        else:
            return section
        return None

    def resolved_plugins(self) -> list[str]:
        """The plugins as the resolved file names them: files by their absolute paths."""
        return [str(resolve_file(name, self.folder)) if name.endswith(".py") else name for name in self.plugin_names]

    def section(self, path: str, cls: type[Options], required: bool = True) -> Options | None:
        """A section of fixed options."""
        written = self.mapping(path, required)
        return None if written is None else self.make(path, cls, written)

    def component(self, path: str, preset: PresetPart = PresetPart()) -> Any:
        """The component that `use:` names, made from its sibling keys."""
        section = self.mapping(path)
        if section is None:
            return None
        registry = self.plugins.registry(path.rpartition(".")[2])
        name = section.get("use")
        if not isinstance(name, str):
            self._no_name(path, section, f"known: {', '.join(registry)}")
            return None
        if name not in registry:
            self.problem(f"{path}.use", registry.unknown(name))
            return None
        self.origins[f"{path}.use"] = self.document.origin(f"{path}.use")
        written = {key: value for key, value in section.items() if key != "use"}
        provider, component = registry[name].provider, registry[name].component
        with naming(provider, f"{component.__name__}.__init__"):
            made = self.make(path, component, written, preset, beside=("use",))
        if made is not None:
            try:
                registry.settle(made, provider, path)
            except ConfigError as error:
                for message in error.problems:
                    self.problem(message.partition(": ")[0], message)
                return None
        return made

    def make(
        self,
        path: str,
        cls: type[Options],
        written: Mapping[str, Any],
        preset: PresetPart = PresetPart(),
        beside: Collection[str] = (),
    ) -> Options | None:
        """A validated instance: what is written wins over the preset, the preset over the class's default."""
        known = field_names(cls)
        bundle = {key: value for key, value in preset.options.items() if key in known and key not in written}
        try:
            made = validate(cls, {**bundle, **written}, path, beside)
        except ConfigError as error:
            for message in error.problems:
                self.problem(message.partition(": ")[0], message)
            return None
        for key, _ in flatten(options_of(made)):
            if key.partition(".")[0] in bundle:
                origin = f"preset {preset.name}"
            else:
                origin = self.document.origin(f"{path}.{key}") if find(written, key)[0] else "default"
            self.origins[f"{path}.{key}"] = origin
        return made

    def _no_name(self, path: str, section: Mapping[str, object], known: str) -> None:
        near = [key for key in section if did_you_mean(key, ["use"])]
        if "use" in section:
            self.problem(f"{path}.use", f"{path}.use: expected a name, got {section['use']!r}; {known}")
        elif near:
            self.problem(f"{path}.{near[0]}", f"{path}.{near[0]}: unknown option. Did you mean 'use'?")
        else:
            self.problem(path, f"{path}.use: required, and missing; {known}")

    def _origin_or_default(self, path: str) -> str:
        return self.document.origin(path) if path in self.document.data else "default"

    def _load_plugins(self) -> Plugins:
        try:
            plugins = load_plugins(self.plugin_names, self.folder)
            _ = plugins.registries
        except PluginError as error:
            raise PluginError(f"{self.document.origin('plugins')}: {error}") from error
        return plugins


def plugin_names(document: Document) -> list[str]:
    """The plugins that a run file names. Raises ConfigError for anything but a list of text."""
    names = document.data.get("plugins")
    if names is None:
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{document.origin('plugins')}: plugins: expected a list of names or ./files.py, got {names!r}"
        )
    return names


_WORDS: Mapping[type, str] = {int: "a whole number", str: "text"}
