"""Calls into a component, which may be anyone's code: what it raises, and what it does to its arguments, is said in words."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganpo_core.components import Component
from ganpo_core.errors import PluginError, is_own
from ganpo_core.registry import provider_of
from ganpo_core.switches import check_switches, torch_switches

NOT_THEIRS = tuple(str(Path(file).parent) for file in (__file__, torch.__file__))
"""Folders whose frames say nothing about a mistake in a plugin."""


def ask(component: Component, method: str, *arguments: object, hint: Callable[[Exception], str] | None = None) -> Any:
    """What `component.method` returns. Raises PluginError, with plugin, version and line, for whatever it raises.

    To leave the process, and to change an argument in place, are mistakes too. `hint` adds what may have caused one.
    """
    return ask_function(component, method_name(component, method), getattr(component, method), *arguments, hint=hint)


def ask_function(
    owner: Component,
    name: str,
    function: Callable[..., Any],
    *arguments: object,
    hint: Callable[[Exception], str] | None = None,
) -> Any:
    """The same of a function that a component has made, such as a critic's module."""
    before, switches = list(tensors_in(arguments)), torch_switches()
    try:
        found = function(*arguments)
    except BaseException as error:
        if is_own(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        if isinstance(error, SystemExit):
            raise PluginError(f"{name} tried to leave the process (SystemExit: {error}){_place(error)}") from error
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        told = hint(error) if hint and isinstance(error, Exception) else ""
        raise PluginError(f"{name} raised {said}{_place(error)}{told}") from error
    check_switches(switches, name)
    after = {path: tensor for path, tensor, _ in tensors_in(arguments)}
    for path, tensor, version in before:
        if after.get(path) is not tensor or tensor._version != version:
            raise PluginError(
                f"{name} changed its argument {_argument(function, path)} in place; others read it too: make a new tensor"
            )
    return found


def ask_scalar(component: Component, method: str, *arguments: object) -> Tensor:
    """What a method returns that owes a single number. Raises PluginError for anything but a scalar tensor."""
    found = ask(component, method, *arguments)
    if not (isinstance(found, Tensor) and found.numel() == 1):
        raise PluginError(f"{method_name(component, method)} returned {kind_of(found)}; expected a scalar tensor")
    return found.reshape(())


def method_name(component: Component, method: str) -> str:
    """`plugin 'acme 1.0': Hinge.loss`, without the plugin for a component that was made by hand."""
    provider = provider_of(component)
    name = f"{type(component).__name__}.{method}"
    return name if provider is None else f"plugin '{provider}': {name}"


def kind_of(found: object) -> str:
    """What something is, for a message about what it should have been."""
    return f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__


def tensors_in(value: object, path: str = "") -> Iterator[tuple[str, Tensor, int]]:
    """(path, tensor, version) of every tensor in arguments; torch counts the changes of each in its version."""
    if isinstance(value, Tensor):
        if not value.is_inference():
            yield path, value, value._version
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}[{key}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{path}.{index}")
    elif is_dataclass(value) and not isinstance(value, type):
        for name, item in vars(value).items():
            yield from tensors_in(item, f"{path}.{name}")


def _argument(function: Callable[..., Any], path: str) -> str:
    """`policy.chosen.logps` of the path `.0.chosen.logps`."""
    index, _, rest = path.removeprefix(".").partition(".")
    try:
        name = list(signature(function).parameters)[int(index)]
    except (ValueError, IndexError):
        name = index
    return f"{name}.{rest}" if rest else name


def _place(error: BaseException) -> str:
    """The innermost line of the plugin's own, where one was reached."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(NOT_THEIRS)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
