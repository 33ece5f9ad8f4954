"""YAML path or mapping -> RunConfig. Mistakes are collected, and raised together."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ganpo_core.config.document import Document, override, read_document, split_override
from ganpo_core.config.paths import resolve_paths
from ganpo_core.config.presets import EXCLUSIVE, PRESETS
from ganpo_core.config.rules import plan_notes, plan_problems, step_problems
from ganpo_core.config.run import AdversaryPlan, RunConfig, options_of
from ganpo_core.config.sections import AdversaryConfig, DataConfig, ModelConfig, TrainingConfig
from ganpo_core.errors import ConfigError, PluginError
from ganpo_core.options import field_names, validate
from ganpo_core.plugins import Plugins, load_plugins
from ganpo_core.registry import KINDS, Kind
from ganpo_core.suggest import did_you_mean

T = TypeVar("T")

_KIND_OF = {kind.section: kind for kind in KINDS}
_PARTS = ("latents", "discriminator", "divergence", "adversary")
_TOP = ("plugins", "seed", "model", "data", "objective", *_PARTS, "adversaries", "training", "output_dir")


def load_run(
    run: str | Path | Mapping[str, object], overrides: Mapping[str, object] | Sequence[str] = ()
) -> RunConfig:
    """Resolve a run file (or a mapping of its shape) with overrides. Raises ConfigError with every mistake found."""
    if isinstance(run, Mapping):
        document, folder = Document(copy.deepcopy(dict(run))), Path.cwd()
    else:
        document, folder = read_document(Path(run)), Path(run).resolve().parent
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(split_override, overrides)
    for path, value in pairs:
        override(document, path, value)
    return _Reader(document, folder).run()


class _Reader:
    """One reading of one document; collects mistakes as it goes."""

    def __init__(self, document: Document, folder: Path) -> None:
        self.document = document
        self.data = document.data
        self.folder = folder
        self.problems: list[str] = []
        self.origins: dict[str, str] = {}
        self.plugins = self._plugins()

    def run(self) -> RunConfig:
        for key in self.data:
            if key not in _TOP and not key.startswith("x-"):
                self.problem(key, f"{key}: unknown section.{did_you_mean(key, _TOP)} Known: {', '.join(_TOP)}")
        model = self.section("model", ModelConfig, required=True)
        data = self.section("data", DataConfig, required=True)
        training = self.section("training", TrainingConfig)
        objective = self.component("objective", self.mapping("objective", required=True))
        plans = self.plans()
        seed, output_dir = self.scalar("seed", int, 0), self.scalar("output_dir", str, None)
        if model and data:
            model, data, path_problems = resolve_paths(model, data, self.folder)
            for path, message in path_problems:
                self.problem(path, message)
        if self.problems or not (model and data and training and objective and output_dir):
            raise ConfigError(self.problems)
        for path, plan in plans:
            prefix = f"{path}." if path else ""
            for where, message in step_problems(plan, training.gradient_accumulation_steps):
                self.problem(f"{prefix}{where}", f"{prefix}{message}")
        if self.problems:
            raise ConfigError(self.problems)
        output = (self.folder / output_dir).resolve()
        resolved: dict[str, object] = {
            "plugins": [self._plugin_path(name) for name in self._plugin_names()],
            "seed": seed,
            "model": options_of(model),
            "data": options_of(data),
            "objective": {"use": self.use("objective"), **options_of(objective)},
            **self._resolved_plans(plans),
            "training": options_of(training),
            "output_dir": str(output),
        }
        return RunConfig(
            seed=seed,
            model=model,
            data=data,
            objective=objective,  # type: ignore[arg-type]
            adversaries=tuple(plan for _, plan in plans if plan.config.weight > 0),
            training=training,
            output_dir=output,
            plugins=self.plugins,
            resolved=resolved,
            origins=self.origins,
            notes=tuple(note for _, plan in plans for note in plan_notes(plan)),
        )

    # -- adversaries -------------------------------------------------------------------------------------------------

    def plans(self) -> list[tuple[str, AdversaryPlan]]:
        """The adversaries of the run with the path each was written under: '' for the top-level one."""
        if "adversaries" not in self.data:
            if not any(part in self.data for part in _PARTS):
                return []
            return self._plan_list([("", self.data, "latent")])
        several = [part for part in _PARTS if part in self.data]
        if several:
            self.problem("adversaries", f"adversaries: give either the list or `{several[0]}:` at the top level")
        items = self.data["adversaries"]
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            self.problem("adversaries", "adversaries: expected a list of sections, each with a `name`")
            return []
        written: list[tuple[str, dict[str, Any], str]] = []
        for index, item in enumerate(items):
            path = f"adversaries.{index}"
            name = item.get("name")
            if not isinstance(name, str) or not name.isidentifier() or name in [other for _, _, other in written]:
                self.problem(path, f"{path}.name: expected a word that no other adversary has, got {name!r}")
                continue
            unknown = [key for key in item if key not in ("name", "weight", *_PARTS)]
            for key in unknown:
                self.problem(f"{path}.{key}", f"{path}.{key}: unknown option.{did_you_mean(key, _PARTS)}")
            written.append((path, self._with_outer_weight(path, item), name))
        return self._plan_list(written)

    def _with_outer_weight(self, path: str, item: dict[str, Any]) -> dict[str, Any]:
        if "weight" not in item:
            return item
        adversary = dict(item.get("adversary") or {})
        if "weight" in adversary:
            self.problem(f"{path}.weight", f"{path}.weight: given here and under adversary; keep one")
        return {**item, "adversary": {**adversary, "weight": item["weight"]}}

    def _plan_list(self, written: Sequence[tuple[str, Mapping[str, Any], str]]) -> list[tuple[str, AdversaryPlan]]:
        made = [(path, self._plan(path, parts, name)) for path, parts, name in written]
        return [(path, plan) for path, plan in made if plan is not None]

    def _plan(self, path: str, parts: Mapping[str, Any], name: str) -> AdversaryPlan | None:
        prefix = f"{path}." if path else ""
        sections = {part: self._part(f"{prefix}{part}", parts.get(part)) for part in _PARTS}
        adversary = sections["adversary"] or {}
        preset_name = adversary.get("preset", "ganpo")
        preset = PRESETS.get(preset_name, {}) if isinstance(preset_name, str) else {}
        divergence: Any = None
        if sections["divergence"] is None:
            self.problem(path or "adversary", f"{prefix}divergence: required, and missing; name one with `use:`")
        else:
            divergence = self.component(f"{prefix}divergence", sections["divergence"], preset.get("divergence"))
        if sections["latents"] is None:
            self.problem(path or "divergence", f"{prefix}latents: required by the divergence, and missing")
        latents: Any = self.component(f"{prefix}latents", sections["latents"], preset.get("latents"))
        discriminator: Any = self.component(
            f"{prefix}discriminator", sections["discriminator"], preset.get("discriminator")
        )
        if sections["discriminator"] is None and divergence is not None and divergence.needs_critic:
            used = (sections["divergence"] or {}).get("use")
            self.problem(
                f"{prefix}divergence",
                f"{prefix}discriminator: required by divergence '{used}', and missing; "
                "a direct distance such as `mse` needs none",
            )
        config = self._adversary_config(f"{prefix}adversary", adversary, preset)
        if config is None or divergence is None or latents is None or (divergence.needs_critic and not discriminator):
            return None
        plan = AdversaryPlan(name, latents, divergence, discriminator, config, "form" in adversary)
        uses = {part: (section or {}).get("use") for part, section in sections.items()}
        for where, message in plan_problems(plan, uses):
            self.problem(f"{prefix}{where}", message)
        return plan

    def _part(self, path: str, section: Any) -> dict[str, Any] | None:
        if section is None or isinstance(section, dict):
            return section
        self.problem(path, f"{path}: expected a section of `key: value` lines, got {section!r}")
        return {}

    def _adversary_config(
        self, path: str, written: Mapping[str, Any], preset: Mapping[str, Mapping[str, object]]
    ) -> AdversaryConfig | None:
        bundle = dict(preset.get("adversary", {}))
        for group in EXCLUSIVE:
            if any(key in written for key in group):
                bundle = {key: value for key, value in bundle.items() if key not in group}
        preset_name = written.get("preset", "ganpo")
        return self.validated(path, AdversaryConfig, {**bundle, **written}, set(bundle) - set(written), preset_name)

    def _resolved_plans(self, plans: Sequence[tuple[str, AdversaryPlan]]) -> dict[str, object]:
        written: list[dict[str, object]] = []
        for path, plan in plans:
            prefix = f"{path}." if path else ""
            parts: dict[str, object] = {
                "latents": {"use": self.use(f"{prefix}latents"), **options_of(plan.latents)},
                "divergence": {"use": self.use(f"{prefix}divergence"), **options_of(plan.divergence)},
                "adversary": options_of(plan.config),
            }
            if plan.discriminator is not None:
                options = options_of(plan.discriminator)
                parts["discriminator"] = {"use": self.use(f"{prefix}discriminator"), **options}
            written.append(parts if not path else {"name": plan.name, **parts})
        if not written:
            return {}
        return {"adversaries": written} if "name" in written[0] else written[0]

    # -- pieces ------------------------------------------------------------------------------------------------------

    def problem(self, path: str, message: str) -> None:
        self.problems.append(f"{self.document.origin(path)}: {message}")

    def mapping(self, path: str, required: bool = False) -> dict[str, Any] | None:
        section = self.data.get(path)
        if section is None:
            if required:
                self.problem("", f"{path}: required section is missing")
            return None
        return self._part(path, section)

    def section(self, path: str, cls: type[T], required: bool = False) -> T | None:
        options = self.mapping(path, required)
        if options is None and required:
            return None
        return self.validated(path, cls, options or {})

    def component(
        self, path: str, section: Mapping[str, Any] | None, preset: Mapping[str, object] | None = None
    ) -> Any:
        """The component that `use:` names, made from its sibling keys; None if it is missing or mistaken."""
        if section is None:
            return None
        kind: Kind = _KIND_OF[path.rpartition(".")[2]]
        registry = self.plugins.registries[kind.name]
        name = section.get("use")
        if not isinstance(name, str):
            self.problem(path, f"{path}.use: required, and missing; known: {', '.join(registry)}")
            return None
        if name not in registry:
            self.problem(f"{path}.use", registry.unknown(name))
            return None
        cls = registry[name].component
        written = {key: value for key, value in section.items() if key != "use"}
        known = field_names(cls)
        bundle = {key: value for key, value in (preset or {}).items() if key in known and key not in written}
        self.origins[f"{path}.use"] = self.document.origin(f"{path}.use")
        return self.validated(path, cls, {**bundle, **written}, set(bundle), self._preset_of(path))

    def _preset_of(self, path: str) -> str:
        node: Any = self.data
        for key in path.split(".")[:-1]:
            node = node[int(key)] if isinstance(node, list) else node[key]
        adversary = node.get("adversary") or {}
        return str(adversary.get("preset", "ganpo")) if isinstance(adversary, dict) else "ganpo"

    def validated(
        self, path: str, cls: type[T], options: Mapping[str, Any], preset_keys: set[str] = frozenset(), preset: str = ""  # type: ignore[assignment]
    ) -> T | None:
        for key in field_names(cls):
            origin = f"preset {preset}" if key in preset_keys else "default"
            self.origins[f"{path}.{key}"] = (
                self.document.origin(f"{path}.{key}") if key in options and key not in preset_keys else origin
            )
        try:
            return validate(cls, options, path)
        except ConfigError as error:
            for message in error.problems:
                self.problem(message.partition(": ")[0], message)
            return None

    def scalar(self, path: str, expected: type[T], default: T | None) -> T:
        value = self.data.get(path, default)
        self.origins[path] = self.document.origin(path) if path in self.data else "default"
        if value is None:
            self.problem("", f"{path}: required, and missing")
        elif type(value) is not expected:
            word = {int: "a whole number", str: "text"}[expected]  # type: ignore[index]
            self.problem(path, f"{path}: expected {word}, got {value!r}")
        return value  # type: ignore[return-value]

    def use(self, path: str) -> str:
        node: Any = self.data
        for key in path.split("."):
            node = node[int(key)] if isinstance(node, list) else node[key]
        return str(node["use"])

    # -- plugins -----------------------------------------------------------------------------------------------------

    def _plugin_names(self) -> list[str]:
        names = self.data.get("plugins") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(
                f"{self.document.origin('plugins')}: plugins: expected a list of names or ./files.py, got {names!r}"
            )
        return names

    def _plugin_path(self, name: str) -> str:
        return str((self.folder / name).resolve()) if name.endswith(".py") else name

    def _plugins(self) -> Plugins:
        try:
            return load_plugins(self._plugin_names(), self.folder)
        except PluginError as error:
            raise PluginError(f"{self.document.origin('plugins')}: {error}") from error
