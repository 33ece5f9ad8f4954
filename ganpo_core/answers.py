"""Calls into an objective, which may be anyone's code: what it raises, and what it returns, is said in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ganpo_core import asking
from ganpo_core.asking import kind_of, method_name, tensors_in
from ganpo_core.components import Objective
from ganpo_core.errors import PluginError
from ganpo_core.forward import TOKEN_STATISTICS
from ganpo_core.types import PairLoss, ResponseLoss

Answer = TypeVar("Answer", PairLoss, ResponseLoss)


def ask(objective: Objective, method: str, *arguments: object) -> object:
    """What `objective.method` returns. Raises PluginError, with the plugin's line, for whatever it raises."""
    return asking.ask(objective, method, *arguments, hint=lambda error: _hint(objective, error))


def ask_loss(objective: Objective, method: str, kind: type[Answer], count: int, *arguments: object) -> Answer:
    """The loss of `count` pairs or responses. Raises PluginError for anything but tensors of that many numbers."""
    found, where = ask(objective, method, *arguments), method_name(objective, method)
    items = "pairs" if kind is PairLoss else "responses"
    wanted = f"expected a {kind.__name__} with one value for each of {count} {items}"
    if not isinstance(found, kind):
        raise PluginError(f"{where} returned {kind_of(found)}; {wanted}")
    given = [tensor for _, tensor, _ in tensors_in(arguments)]
    for name, values in _fields(found):
        if not (isinstance(values, Tensor) and values.shape == (count,)):
            raise PluginError(f"{where} returned {kind_of(values)} as {name}; {wanted}")
        if values.is_complex() or values.layout != torch.strided or values.device != given[0].device:
            form = f"{values.layout} of {values.dtype} on {values.device}"
            raise PluginError(f"{where} returned {form} as {name}; expected real numbers, dense, on {given[0].device}")
        if values.dtype == torch.bool and not name.startswith("metrics"):
            raise PluginError(f"{where} returned {values.dtype} as {name}; expected numbers: `.float()` makes some of it")
    per_item = found.per_pair if isinstance(found, PairLoss) else found.per_response
    if torch.is_grad_enabled() and not _depends_on(per_item, given):
        raise PluginError(
            f"{where} returned values that do not depend on the policy: nothing could be learned from them. Compute "
            "them from `policy` with operations that can be differentiated, and detach the rewards alone"
        )
    return found


def ask_values(
    objective: Objective, method: str, names: Collection[str], *arguments: object
) -> Mapping[str, Tensor]:
    """The values behind the `batch_statistics` called `names`. Raises PluginError where one is missing or no list."""
    found, where = ask(objective, method, *arguments), method_name(objective, method)
    if not isinstance(found, Mapping) or not found.keys() >= set(names):
        given = ", ".join(map(str, found)) or "nothing" if isinstance(found, Mapping) else kind_of(found)
        raise PluginError(f"{where} gives {given}; batch_statistics names {', '.join(objective.batch_statistics)}")
    for name in names:
        if not (isinstance(found[name], Tensor) and found[name].ndim == 1):
            raise PluginError(
                f"{where} gives {kind_of(found[name])} as '{name}'; expected a one-dimensional tensor of any length"
            )
    return found


def _fields(found: PairLoss | ResponseLoss) -> Iterator[tuple[str, object]]:
    for name, value in vars(found).items():
        if name != "metrics":
            yield name, value
    if not isinstance(found.metrics, Mapping):
        yield "metrics", found.metrics
        return
    for name, value in found.metrics.items():
        # A name that is not text is shown as what it is, and is nobody's tensor.
        yield f"metrics[{name!r}]", value if isinstance(name, str) and name.isprintable() else name


def _depends_on(found: Tensor, given: Sequence[Tensor]) -> bool:
    """Whether any of the tensors given went into what was found, so that a gradient comes back to it.

    The walk ends at the tensors given, behind which the model's own graph begins.
    """
    if not found.requires_grad:
        return False
    sources = {id(tensor) for tensor in given}
    ends = {tensor.grad_fn for tensor in given if tensor.grad_fn is not None}
    if found.grad_fn is None:
        return id(found) in sources
    waiting, seen = [found.grad_fn], {found.grad_fn}
    while waiting:
        node = waiting.pop()
        if node in ends or id(getattr(node, "variable", None)) in sources:
            return True
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return False


def _hint(objective: Objective, error: Exception) -> str:
    if isinstance(error, KeyError):
        tokens = [
            f"{name} on the {'reference' if TOKEN_STATISTICS[name] == 'reference' else 'policy'}'s"
            for name in sorted(objective.token_statistics)
        ]
        held = f"token_statistics: {', '.join(tokens) or 'none'}; "
        held += f"batch_statistics: {', '.join(objective.batch_statistics) or 'none'}"
        return f". It is given what it declares ({held})"
    if isinstance(error, AttributeError | TypeError) and "NoneType" in str(error) and not objective.needs_reference:
        return ". Its `reference` is None, because needs_reference is False"
    return ""
