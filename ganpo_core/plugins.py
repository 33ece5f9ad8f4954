"""Entry points and files become registries. Third-party code runs only if the run file names it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from ganpo_core import hookspecs
from ganpo_core.errors import PluginError, is_own
from ganpo_core.registry import KINDS, Entry, Provider, Registry, naming
from ganpo_core.suggest import did_you_mean
from ganpo_core.switches import check_switches, torch_switches

if TYPE_CHECKING:
    import typer

    from ganpo_core.types import StepReport

GROUP = "ganpo"
"""The entry-point group, the project name of the hooks, and the distribution whose own plugins always load."""
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("ganpo_"))


@dataclass(frozen=True)
class Plugins:
    """What is loaded, and what is installed beside it."""

    manager: pluggy.PluginManager
    providers: Mapping[str, Provider]
    available: tuple[Provider, ...]
    """Installed plugins that the run file did not name."""

    @cached_property
    def registries(self) -> Mapping[str, Registry]:
        """A registry per kind, filled on first use: a plugin that names its classes imports them, and with them torch.

        Raises PluginError for what is no component, and for a name that two plugins claim.
        """
        registries = {kind.name: Registry(kind, tuple(other.plugin for other in self.available)) for kind in KINDS}
        for kind in KINDS:
            for provider, components in self._results(kind.hook):
                for name, component in components.items():
                    registries[kind.name].add(name, component, provider)
        return registries

    def registry(self, kind: str) -> Registry:
        """The registry of a kind, called by its name or by its section. Raises PluginError for an unknown kind."""
        names = {alias: known.name for known in KINDS for alias in (known.section, known.name)}
        if kind not in names:
            known = ", ".join(kind.name for kind in KINDS)
            raise PluginError(f"kind '{kind}' is not known.{did_you_mean(kind, names)} Known: {known}")
        return self.registries[names[kind]]

    def entries(self, in_run_file: bool = False) -> list[tuple[str, str, Entry]]:
        """(kind, name, entry) of everything registered, in a stable order; or of what a run file can name."""
        kinds = [kind.name for kind in KINDS if kind.in_run_file or not in_run_file]
        return [(kind, name, self.registries[kind][name]) for kind in kinds for name in self.registries[kind]]

    def commands(self) -> dict[str, typer.Typer]:
        """Command groups that plugins add to the command line."""
        groups: dict[str, typer.Typer] = {}
        owners: dict[str, Provider] = {}
        for provider, commands in self._results("ganpo_commands"):
            for name, group in commands.items():
                if name in groups:
                    both = f"'{owners[name].plugin}' and '{provider.plugin}'"
                    raise PluginError(f"command '{name}' is provided by both {both}; rename one")
                groups[name], owners[name] = group, provider
        return groups

    def step_finished(self, report: StepReport) -> None:
        """Tell every observer. Raises PluginError naming the one that fails."""
        report = replace(report, metrics=MappingProxyType(dict(report.metrics)))
        for implementation in self.manager.hook.ganpo_step_finished.get_hookimpls():
            name = implementation.plugin_name  # an observer may have joined the manager without being loaded
            provider = self.providers.get(name, Provider(name, None, None))
            before = torch_switches()
            with naming(provider, "ganpo_step_finished"):
                implementation.function(*(report for _ in implementation.argnames))
            check_switches(before, f"plugin '{provider}': ganpo_step_finished")

    def _results(self, hook: str) -> Iterable[tuple[Provider, Mapping[Any, Any]]]:
        # Walked one by one, not called in bulk, so that every entry knows its provider.
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            provider = self.providers[implementation.plugin_name]
            with naming(provider, hook):
                result = implementation.function()
            if not isinstance(result, Mapping):
                raise PluginError(f"plugin '{provider}': {hook} returned {result!r}, not a mapping of names to classes")
            yield provider, result


def load_plugins(names: Sequence[str] = (), folder: Path | None = None) -> Plugins:
    """A fresh set of plugins: the distribution's own, then those named.

    A name is an installed entry point of group `ganpo`, or a path ending in `.py`, relative to `folder`. Raises
    PluginError for one that is missing, fails to import or misspells a hook.
    """
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    providers: dict[str, Provider] = {}
    installed = _installed()
    built_in = sorted(name for name, points in installed.items() if _distribution(points[0]) == GROUP)
    for name in (*built_in, *dict.fromkeys(names)):
        if name in built_in and name in providers:
            continue
        module, provider = _load_file(name, folder) if name.endswith(".py") else _load_installed(name, installed)
        if provider.plugin in providers:
            raise PluginError(f"plugins: '{name}' and an earlier plugin are both called '{provider.plugin}'; rename one")
        providers[provider.plugin] = provider
        _register(manager, module, provider)
    available = tuple(_provider(points[0]) for name, points in sorted(installed.items()) if name not in providers)
    return Plugins(manager, providers, available)


def resolve_file(path: str, folder: Path | None) -> Path:
    """The absolute path of a plugin file."""
    return ((folder or Path.cwd()) / path).resolve()


def _installed() -> dict[str, list[EntryPoint]]:
    """Every entry point of the group by name; where several distributions claim a name, the built-in one is first."""
    installed: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        installed.setdefault(point.name, []).append(point)
    return {name: sorted(points, key=lambda point: _distribution(point) != GROUP) for name, points in installed.items()}


def _register(manager: pluggy.PluginManager, module: ModuleType, provider: Provider) -> None:
    marked = [name for name, member in vars(module).items() if getattr(member, "ganpo_impl", None)]
    for name in marked:
        if name not in HOOKS:
            known = ", ".join(HOOKS)
            raise PluginError(f"plugin '{provider}': unknown hook '{name}'.{did_you_mean(name, HOOKS)} Known: {known}")
    for name in HOOKS:
        if name not in marked and isinstance(vars(module).get(name), FunctionType):
            raise PluginError(f"plugin '{provider}': {name} is not marked; put @hookimpl from ganpo_core above it")
    try:
        manager.register(module, name=provider.plugin)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"plugin '{provider}': {error}") from error


def _load_installed(name: str, installed: Mapping[str, Sequence[EntryPoint]]) -> tuple[ModuleType, Provider]:
    if name not in installed:
        known = ", ".join(sorted(installed))
        raise PluginError(f"plugins: '{name}' is not installed; installed: {known}.{did_you_mean(name, installed)}")
    point, *others = installed[name]
    if others and _distribution(point) != GROUP:
        owners = " and ".join(f"'{_distribution(each)}'" for each in (point, *others))
        raise PluginError(f"plugins: '{name}' is provided by both {owners}; uninstall one")
    provider = _provider(point)
    try:
        module = point.load()
    except BaseException as error:
        if is_own(error):
            raise
        raise PluginError(f"plugin '{provider}' does not import: {type(error).__name__}: {error}") from error
    if not isinstance(module, ModuleType):
        raise PluginError(f"plugin '{provider}': its entry point is {module!r}, not a module; write `{name} = \"package\"`")
    return module, provider


def _load_file(path: str, folder: Path | None) -> tuple[ModuleType, Provider]:
    file = resolve_file(path, folder)
    if not file.is_file():
        raise PluginError(f"plugins: '{path}' is not a file ({file}); paths are relative to the run file")
    provider = Provider(file.stem, None, f"sha256:{sha256(file.read_bytes()).hexdigest()[:12]}")
    # A name of its own, so that a file called like an installed package, or like another file, does not shadow it.
    name = f"ganpo_plugin_file_{file.stem}_{sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugins: '{path}' cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are being made
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if is_own(error):
            raise
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise PluginError(f"plugin '{path}' does not import: {said}{_line_in(file, error)} ({provider})") from error
    return module, provider


def _line_in(file: Path, error: BaseException) -> str:
    """The line of a plugin's file that an error passed last."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def _provider(point: EntryPoint) -> Provider:
    return Provider(point.name, _distribution(point), point.dist.version if point.dist else None)


def _distribution(point: EntryPoint) -> str | None:
    return point.dist.name if point.dist else None
