"""Entry points and files become registries. Third-party code runs only if the run file names it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from ganpo_core import hookspecs
from ganpo_core.errors import PluginError
from ganpo_core.registry import KINDS, Entry, Provider, Registry
from ganpo_core.suggest import did_you_mean

if TYPE_CHECKING:
    import typer

    from ganpo_core.types import StepReport

GROUP = "ganpo"
"""The entry-point group, the project name of the hooks, and the distribution whose own plugins always load."""


@dataclass(frozen=True)
class Plugins:
    """What is loaded, and what is installed beside it."""

    manager: pluggy.PluginManager
    providers: Mapping[str, Provider]
    registries: Mapping[str, Registry]
    available: tuple[Provider, ...]
    """Installed plugins that the run file did not name."""

    def registry(self, kind: str) -> Registry:
        """The registry of a kind. Raises PluginError for an unknown kind."""
        if kind not in self.registries:
            known = ", ".join(self.registries)
            raise PluginError(f"kind '{kind}' is not known.{did_you_mean(kind, self.registries)} Known: {known}")
        return self.registries[kind]

    def entries(self) -> list[tuple[str, str, Entry]]:
        """(kind, name, entry) of everything registered, in a stable order."""
        return [(kind, name, registry[name]) for kind, registry in self.registries.items() for name in registry]

    def commands(self) -> dict[str, typer.Typer]:
        """Command groups that plugins add to the command line."""
        groups: dict[str, typer.Typer] = {}
        for provider, commands in self._results("ganpo_commands"):
            for name, group in commands.items():
                if name in groups:
                    raise PluginError(f"command '{name}' is provided twice, the second time by '{provider}'; rename one")
                groups[name] = group
        return groups

    def step_finished(self, report: StepReport) -> None:
        """Tell every observer. Raises PluginError naming the one that fails."""
        for implementation in self.manager.hook.ganpo_step_finished.get_hookimpls():
            try:
                implementation.function(report)
            except Exception as error:
                provider = self.providers[implementation.plugin_name]
                raise PluginError(f"plugin '{provider}': ganpo_step_finished raised {error!r}") from error

    def _results(self, hook: str) -> Iterable[tuple[Provider, Mapping[Any, Any]]]:
        # Walked one by one, not called in bulk, so that every entry knows its provider.
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            provider = self.providers[implementation.plugin_name]
            try:
                result = implementation.function()
            except Exception as error:
                raise PluginError(f"plugin '{provider}': {hook} raised {error!r}") from error
            if not isinstance(result, Mapping):
                raise PluginError(f"plugin '{provider}': {hook} returned {result!r}, not a mapping of names to classes")
            yield provider, result


def load_plugins(names: Sequence[str] = (), folder: Path | None = None) -> Plugins:
    """A fresh set of registries: the distribution's own plugins, then those named.

    A name is an installed entry point of group `ganpo`, or a path ending in `.py`, relative to `folder`. Raises
    PluginError for one that is missing, fails to import, misspells a hook, or claims a name that is taken.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    providers: dict[str, Provider] = {}
    installed = {point.name: point for point in entry_points(group=GROUP)}
    built_in = [name for name, point in installed.items() if _distribution(point) == GROUP]
    for name in (*sorted(built_in), *dict.fromkeys(names)):
        if name in providers:
            continue
        module, provider = _load_file(name, folder) if name.endswith(".py") else _load_installed(name, installed)
        if provider.plugin in providers:
            raise PluginError(f"plugins: '{name}' and an earlier plugin are both called '{provider.plugin}'; rename one")
        providers[provider.plugin] = provider
        _register(manager, module, provider)
    available = tuple(_provider(point) for name, point in sorted(installed.items()) if name not in providers)
    registries = {kind.name: Registry(kind, tuple(other.plugin for other in available)) for kind in KINDS}
    plugins = Plugins(manager, providers, registries, available)
    for kind in KINDS:
        for provider, components in plugins._results(kind.hook):
            for name, component in components.items():
                registries[kind.name].add(name, component, provider)
    return plugins


def _register(manager: pluggy.PluginManager, module: ModuleType, provider: Provider) -> None:
    try:
        manager.register(module, name=provider.plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        hooks = [name for name in vars(hookspecs) if name.startswith("ganpo_")]
        wrong = next((name for name in vars(module) if name.startswith("ganpo_") and name not in hooks), "")
        raise PluginError(f"plugin '{provider}': {error}.{did_you_mean(wrong, hooks)}") from error


def _load_installed(name: str, installed: Mapping[str, EntryPoint]) -> tuple[ModuleType, Provider]:
    if name not in installed:
        known = ", ".join(sorted(installed))
        raise PluginError(f"plugins: '{name}' is not installed; installed: {known}.{did_you_mean(name, installed)}")
    provider = _provider(installed[name])
    try:
        module: ModuleType = installed[name].load()
    except Exception as error:
        raise PluginError(f"plugin '{provider}' does not import: {type(error).__name__}: {error}") from error
    return module, provider


def _load_file(path: str, folder: Path | None) -> tuple[ModuleType, Provider]:
    file = ((folder or Path.cwd()) / path).resolve()
    if not file.is_file():
        raise PluginError(f"plugins: '{path}' is not a file ({file}); paths are relative to the run file")
    # A name of its own, so that a file called like an installed package neither shadows it nor is shadowed.
    spec = importlib.util.spec_from_file_location(f"ganpo_plugin_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugins: '{path}' cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while they are being made
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(f"plugin '{path}' does not import: {type(error).__name__}: {error}") from error
    return module, Provider(file.stem, None, f"sha256:{sha256(file.read_bytes()).hexdigest()[:12]}")


def _provider(point: EntryPoint) -> Provider:
    return Provider(point.name, _distribution(point), point.dist.version if point.dist else None)


def _distribution(point: EntryPoint) -> str | None:
    return point.dist.name if point.dist else None
