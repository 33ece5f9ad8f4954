"""A mapping becomes a validated dataclass, or a list of mistakes in the user's own words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticSerializationError, to_json

from ganpo_core.errors import ConfigError, PluginError
from ganpo_core.suggest import did_you_mean

T = TypeVar("T")

LARGEST, SMALLEST = 1e12, 1e-37
"""Of any number in a run file, in magnitude; SMALLEST is where float32 begins to lose digits."""
_MISSING = frozenset({"missing", "missing_argument", "missing_keyword_only_argument"})

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a section of `key: value` lines",
    "dataclass_type": "a section of `key: value` lines",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "string_type": "text",
    "tuple_type": "a list",
}


def adapter(cls: type[T]) -> TypeAdapter[T]:
    """pydantic's validator of a dataclass; built once per class. Raises PluginError for one that it cannot read."""
    key: Any = cls  # mypy holds a class's instances to be what is hashed
    built: TypeAdapter[T] = _adapter(key)
    return built


@cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    try:
        built: TypeAdapter[Any] = TypeAdapter(cls)
        built.rebuild()
    except (PydanticUserError, NameError) as error:
        reason = str(error).partition("\n")[0]
        raise PluginError(f"the options of {cls.__module__}.{cls.__qualname__} cannot be read: {reason}") from error
    return built


def validate(cls: type[T], options: Mapping[str, object], path: str, beside: Collection[str] = ()) -> T:
    """An instance of `cls` from a mapping of its fields. Raises ConfigError listing every mistake under `path`.

    `beside` are further keys that may stand among the options, such as `use`, though not in `options`: a misspelt
    one is compared with them too.
    """
    if strange := list(_out_of_scale(options, path)):
        raise ConfigError(strange)
    try:
        # JSON keeps strictness where it helps (no "1" for 1, no true for 1.0) and lets a list be a tuple.
        made: T = adapter(cls).validate_json(to_json(dict(options), inf_nan_mode="constants"))
        return made
    except PydanticSerializationError as error:
        raise ConfigError(f"{path}: an option is not plain data: {error}") from error
    except ValidationError as error:
        raise ConfigError(_problems(cls, options, error.errors(), path, beside)) from error


def _out_of_scale(value: object, path: str) -> Iterator[str]:
    """Numbers that no option can mean, whatever its own range: they would overflow, or vanish, in float32."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _out_of_scale(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _out_of_scale(item, f"{path}.{index}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if LARGEST < abs(value) < math.inf:
            got = f"{value:g}" if isinstance(value, float) else f"a number of {value.bit_length()} bits"
            yield f"{path}: must lie between {-LARGEST:g} and {LARGEST:g}, got {got}"
        elif 0 < abs(value) < SMALLEST:
            yield f"{path}: {value:g} is 0 in float32; the smallest is {SMALLEST:g}"


def field_names(cls: type) -> list[str]:
    """The options of a component or a section, in the order of its definition."""
    return [field.name for field in fields(cls) if field.init]


def _problems(
    cls: type, options: Mapping[str, object], errors: list[ErrorDetails], path: str, beside: Collection[str]
) -> list[str]:
    grouped: dict[str, list[ErrorDetails]] = {}
    for error in errors:
        grouped.setdefault(".".join([path, *_location(options, error)]), []).append(error)
    told = [(where, _sentence(cls, group, beside)) for where, group in grouped.items()]
    # A class's own check may begin with the option that it is about: `objectives.0.weight: …`.
    own = {where for where, text in told if where == path and text.partition(":")[0].partition(".")[0] in field_names(cls)}
    return [f"{where}.{text}" if where in own else f"{where}: {text}" for where, text in told]


def _location(options: Any, error: ErrorDetails) -> list[str]:
    """The keys that the user wrote; pydantic also names the members of a union that it tried."""
    location: list[str] = []
    node = options
    for part in error["loc"]:
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list | tuple) and isinstance(part, int)
        if inside:
            node = node[part]
        elif error["type"] not in _MISSING:
            continue
        location.append(str(part))
    return location


def _section_at(cls: type, location: Sequence[str]) -> type:
    """The dataclass inside `cls` that a location leads to; parts that are no field are members of a union or a list."""
    for part in location:
        if part in field_names(cls):
            cls = next(_dataclasses_in(get_type_hints(cls)[part]), cls)
    return cls


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for part in get_args(hint):
        yield from _dataclasses_in(part)


def _sentence(cls: type, errors: list[ErrorDetails], beside: Collection[str]) -> str:
    first = errors[0]
    kinds = {error["type"] for error in errors}
    if "unexpected_keyword_argument" in kinds:
        *parents, key = map(str, first["loc"])
        section = _section_at(cls, parents)
        if instead := getattr(section, "elsewhere", {}).get(key):
            return f"unknown option: {instead}"
        return f"unknown option.{did_you_mean(key, [*field_names(section), *(beside if not parents else ())])}"
    if kinds & _MISSING:
        return "required, and missing"
    wanted = [_EXPECTED[error["type"]] for error in errors if error["type"] in _EXPECTED]
    if len(wanted) == len(errors):
        return f"expected {' or '.join(dict.fromkeys(wanted))}, got {first['input']!r}"
    specific = next((error for error in errors if error["type"] not in _EXPECTED), first)
    if specific["type"] == "value_error":
        return str(specific["ctx"]["error"])
    message = specific["msg"].replace("Input should be", "must be")
    return f"{message}, got {specific['input']!r}"
