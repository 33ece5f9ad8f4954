"""Whether every option of a component changes something."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from ganpo_core.components import Component
from ganpo_core.errors import ConfigError
from ganpo_core.options import validate
from ganpo_core.testing.expect import expect

Outputs = Mapping[str, Tensor]


def expect_options_matter(component: Component, base: type[Component], outputs: Callable[[Any], Outputs]) -> None:
    """Each option has another value that changes a score, a loss, a gradient or a shape among `outputs`.

    Options whose other values cannot be guessed from their type are passed over.
    """
    cls = type(component)
    hints = get_type_hints(cls, include_extras=True)
    engines = {field.name for field in dataclasses.fields(base)}  # core reads those, the component does not
    for field in dataclasses.fields(component):
        if not field.init or field.name in engines:
            continue
        beside = cls.matters_with.get(field.name, {})
        tried: list[object] = []
        # Beside the options at hand it may be idle; beside the defaults, or what it says it needs, it must not be.
        for start in (component, _made(component, {**_defaults(component), **beside})):
            if start is None:  # options that are no plain data cannot be made again
                expect(not beside, cls.__name__, f"valid options in matters_with['{field.name}']", beside)
                continue
            plain, found = outputs(start), False
            for value in _alternatives(hints[field.name], getattr(start, field.name)):
                other = _made(start, {field.name: value})
                if other is not None and other != start:
                    tried.append(value)
                    found = found or _differ(plain, outputs(other))
            if found:
                tried = []
                break
        if tried:
            raise AssertionError(
                f"{cls.__name__}.{field.name}: expected another value to change a score, a loss or a gradient; none of "
                f"{', '.join(map(repr, tried))} did. An option that matters only beside another is declared in "
                "`matters_with`"
            )


def _defaults(component: Component) -> dict[str, object]:
    """The options that have a default, at it."""
    return _plain(
        {
            field.name: field.default
            for field in dataclasses.fields(component)
            if field.init and field.default is not dataclasses.MISSING
        }
    )


def _made(component: Component, options: Mapping[str, object]) -> Component | None:
    """The component with other options; None where they are not valid."""
    kept = {
        field.name: getattr(component, field.name)
        for field in dataclasses.fields(component)
        if field.init and field.name not in options
    }
    try:
        return validate(type(component), {**_plain(kept), **options}, "options")
    except ConfigError:
        return None


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _alternatives(hint: Any, value: object) -> Iterator[object]:
    """Other values of an option, as far as its type tells them."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _alternatives(arguments[0], value)
    elif origin is Literal:
        yield from (other for other in arguments if other != value)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from [None] if argument is type(None) and value is not None else _alternatives(argument, value)
    elif hint is bool:
        yield not value
    elif hint is int:
        number = value if isinstance(value, int) else 1
        yield from (number + 1, number * 2, number // 2, 4)
    elif hint is float:
        number_ = float(value) if isinstance(value, int | float) else 1.0
        yield from (number_ * 2, number_ / 2, number_ + 0.1, 1.0, 0.0)
    elif origin is tuple and isinstance(value, tuple) and value and all(isinstance(v, int | float) for v in value):
        yield [value[0] * 2, *value[1:]]


def _differ(first: Outputs, second: Outputs) -> bool:
    return first.keys() != second.keys() or any(
        first[name].shape != second[name].shape or not _close(first[name], second[name]) for name in first
    )


def _close(first: Tensor, second: Tensor) -> bool:
    difference = (first.detach().double() - second.detach().double()).abs()
    return difference.numel() == 0 or bool((difference <= 1e-12).all())


def named(name: str, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Several outputs under one name."""
    return {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}
