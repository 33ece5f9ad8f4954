"""The adversarial sections, at the top level or as a list, become plans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ganpo_core.config.presets import EXCLUSIVE, PRESETS
from ganpo_core.config.reading import PresetPart, Reading
from ganpo_core.config.rules import plan_problems
from ganpo_core.config.run import AdversaryPlan, options_of
from ganpo_core.config.sections import AdversaryConfig
from ganpo_core.suggest import did_you_mean

PARTS = ("latents", "discriminator", "divergence", "adversary")
_ITEM = ("name", "weight", *PARTS)


def read_adversaries(reading: Reading) -> dict[str, AdversaryPlan]:
    """The plans of a run by the path that each was written under: '' at the top level, else `adversaries.0.` and so on."""
    data = reading.document.data
    at_top = [part for part in PARTS if part in data]
    if "adversaries" not in data:
        plan = _plan(reading, "", "latent") if at_top else None
        return {} if plan is None else {"": plan}
    if at_top:
        reading.problem("adversaries", f"adversaries: give either the list or `{at_top[0]}:` at the top level")
    items = data["adversaries"]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        reading.problem("adversaries", "adversaries: expected a list of sections, each with a `name`")
        return {}
    plans: dict[str, AdversaryPlan] = {}
    for index, item in enumerate(items):
        prefix = f"adversaries.{index}."
        earlier = [other.get("name") for other in items[:index]]
        _check_item(reading, prefix, item, earlier)
        plan = _plan(reading, prefix, str(item.get("name")))
        if plan is not None:
            plans[prefix] = plan
    return plans


def resolved_plans(reading: Reading, plans: Mapping[str, AdversaryPlan]) -> dict[str, object]:
    """The sections of the resolved file that make the same plans again."""
    if "" in plans:
        return _resolved(reading, "", plans[""])
    items = [{"name": plan.name, **_resolved(reading, prefix, plan)} for prefix, plan in plans.items()]
    return {"adversaries": items} if items else {}


def _check_item(reading: Reading, prefix: str, item: dict[str, Any], earlier: list[object]) -> None:
    """What an item of the list has beside its four sections: a name of its own, and perhaps the weight."""
    name = item.get("name")
    if not isinstance(name, str) or not name.isidentifier() or name in earlier:
        reading.problem(f"{prefix}name", f"{prefix}name: expected a word that no other adversary has, got {name!r}")
    reading.origins[f"{prefix}name"] = reading.document.origin(f"{prefix}name")
    for key in item:
        if key not in _ITEM:
            reading.problem(f"{prefix}{key}", f"{prefix}{key}: unknown option.{did_you_mean(key, _ITEM)}")
    adversary = item.get("adversary") or {}
    if "weight" in item and isinstance(adversary, dict):
        if "weight" in adversary:
            reading.problem(f"{prefix}weight", f"{prefix}weight: given here and under adversary; keep one")
        item["adversary"] = {**adversary, "weight": item.pop("weight")}
        reading.document.move(f"{prefix}weight", f"{prefix}adversary.weight")


def _plan(reading: Reading, prefix: str, name: str) -> AdversaryPlan | None:
    uses: dict[str, str | None] = {}
    written = [part for part in PARTS if reading.document.get(f"{prefix}{part}") is not None]
    adversary = reading.mapping(f"{prefix}adversary", required=False)
    chosen = (adversary or {}).get("preset", AdversaryConfig.preset)
    preset = PRESETS.get(chosen, {}) if isinstance(chosen, str) else {}

    def component(part: str) -> Any:
        if part not in written:
            return None
        uses[part] = str(reading.document.get(f"{prefix}{part}.use"))
        return reading.component(f"{prefix}{part}", PresetPart(str(chosen), preset.get(part, {})))

    divergence, latents, discriminator = component("divergence"), component("latents"), component("discriminator")
    nearest = f"{prefix}{written[0]}" if written else prefix.rstrip(".")
    if "divergence" not in written:
        reading.problem(nearest, f"{prefix}divergence: required, and missing; name one with `use:`")
    if "latents" not in written:
        reading.problem(nearest, f"{prefix}latents: required by the divergence, and missing")
    if divergence is not None and divergence.needs_critic and "discriminator" not in written:
        reading.problem(
            f"{prefix}divergence",
            f"{prefix}discriminator: required by divergence '{uses['divergence']}', and missing{_without_critic(reading)}",
        )
    config = None
    if adversary is not None:
        bundle = PresetPart(str(chosen), _without_rivals(preset.get("adversary", {}), adversary))
        config = reading.make(f"{prefix}adversary", AdversaryConfig, adversary, bundle)
    if config is None or divergence is None or latents is None or (divergence.needs_critic and discriminator is None):
        return None
    plan = AdversaryPlan(name, latents, divergence, discriminator, config, "form" in (adversary or {}))
    for where, message in plan_problems(plan, {part: uses.get(part) for part in PARTS}):
        reading.problem(f"{prefix}{where}", message)
    return plan


def _without_rivals(bundle: Mapping[str, object], written: Mapping[str, object]) -> Mapping[str, object]:
    """A preset's options, less those that exclude something the file gives."""
    silenced = {key for group in EXCLUSIVE if any(key in written for key in group) for key in group}
    return {key: value for key, value in bundle.items() if key not in silenced}


def _without_critic(reading: Reading) -> str:
    registry = reading.plugins.registry("divergence")
    direct = [name for name, entry in registry.items() if not getattr(entry.component, "needs_critic", True)]
    return f"; a direct distance ({', '.join(direct)}) needs none" if direct else ""


def _resolved(reading: Reading, prefix: str, plan: AdversaryPlan) -> dict[str, object]:
    components = {"latents": plan.latents, "discriminator": plan.discriminator, "divergence": plan.divergence}
    sections: dict[str, object] = {
        part: {"use": reading.document.get(f"{prefix}{part}.use"), **options_of(instance)}
        for part, instance in components.items()
        if instance is not None
    }
    return {**sections, "adversary": options_of(plan.config)}
