"""Options as documentation, and the run file as a JSON schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from ganpo_core.config.sections import AdversaryConfig, DataConfig, ModelConfig, TrainingConfig
from ganpo_core.options import adapter
from ganpo_core.plugins import Plugins
from ganpo_core.registry import KINDS

SECTIONS: Mapping[str, type] = {
    "model": ModelConfig,
    "data": DataConfig,
    "training": TrainingConfig,
    "adversary": AdversaryConfig,
}


@dataclass(frozen=True)
class OptionText:
    """One option of a section or a component, in words."""

    name: str
    type: str
    default: str
    text: str


def describe_options(cls: type) -> list[OptionText]:
    """The options of a dataclass with their types, defaults and the text under each field."""
    properties: Mapping[str, Any] = adapter(cls).json_schema().get("properties", {})
    hints = get_type_hints(cls, include_extras=True)
    return [
        OptionText(
            field.name,
            _type_text(hints[field.name]),
            _default_text(field),
            " ".join(str(properties[field.name].get("description") or _inherited_text(cls, field.name)).split()),
        )
        for field in fields(cls)
        if field.init
    ]


def _inherited_text(cls: type, name: str) -> str:
    """The text of an option that a base class defines and documents."""
    for base in cls.__mro__[1:]:
        if is_dataclass(base):
            found = adapter(base).json_schema().get("properties", {}).get(name, {}).get("description")
            if found:
                return str(found)
    return ""


def run_schema(plugins: Plugins) -> dict[str, Any]:
    """The JSON schema of a run file with these plugins."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {
        "plugins": {"type": "array", "items": {"type": "string"}, "description": "Third-party plugins to enable."},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "output_dir": {"type": "string", "description": "Where the run is written; relative to the run file."},
    }
    for name, section in SECTIONS.items():
        properties[name] = _inline(adapter(section).json_schema(), definitions)
    kinds = [kind for kind in KINDS if kind.in_run_file]
    for kind in kinds:
        properties[kind.section] = _component_schema(plugins, kind.name, definitions)
    parts = {kind.section: properties[kind.section] for kind in kinds if kind.section != "objective"}
    properties["adversaries"] = {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "latents", "divergence"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string"},
                "weight": {"type": "number", "minimum": 0},
                "adversary": properties["adversary"],
                **parts,
            },
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ganpo run file",
        "type": "object",
        "required": ["model", "data", "objective", "output_dir"],
        "additionalProperties": False,
        "patternProperties": {"^x-": {}},
        "properties": properties,
        "$defs": definitions,
    }


def _component_schema(plugins: Plugins, kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    branches = []
    for name, entry in plugins.registries[kind].items():
        branch = _inline(adapter(entry.component).json_schema(), definitions)
        branch["properties"] = {"use": {"const": name}, **branch.get("properties", {})}
        branch["required"] = ["use", *branch.get("required", [])]
        branches.append(branch)
    return {"oneOf": branches} if branches else {"not": {}}


def _inline(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    definitions.update(schema.pop("$defs", {}))
    return schema


def _default_text(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        return _value_text(field.default_factory())
    return "required" if field.default is MISSING else _value_text(field.default)


def _value_text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type_text(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([_type_text(arguments[0]), *_bounds(hint.__metadata__)])
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (tuple, list):
        return f"list of {_type_text(arguments[0])}"
    if origin in (Union, UnionType):
        return " | ".join("null" if part is type(None) else _type_text(part) for part in arguments)
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _bounds(constraints: Iterable[object]) -> Iterator[str]:
    for bound in constraints:
        if isinstance(bound, Gt | Ge | Lt | Le):
            name, sign = _SIGNS[type(bound)]
            yield f"{sign} {getattr(bound, name)}"


_SIGNS: Mapping[type, tuple[str, str]] = {Gt: ("gt", ">"), Ge: ("ge", ">="), Lt: ("lt", "<"), Le: ("le", "<=")}
_WORDS: Mapping[Any, str] = {float: "number", int: "whole number", str: "text", bool: "true | false"}
