"""What happens to a pair of more than `max_length` tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ganpo_core.data.tokenize import TokenizedPair


@dataclass(frozen=True)
class Fitted:
    """A pair that fits, what was cut from it, and why it must be dropped if it must."""

    pair: TokenizedPair
    cut: tuple[str, ...] = ()
    dropped: str | None = None


def fit(pair: TokenizedPair, max_length: int, policy: str) -> Fitted:
    """The pair under `on_overlong`: drop, truncate_prompt_left or truncate_response_right.

    Each side counts prompt and response together, in tokens. Neither the prompt nor a response ever becomes empty,
    and no prompt with an image is cut.
    Under `error` an overlong pair comes back with `dropped` set, for the caller to refuse.
    """
    if len(pair.prompt) + _longer(pair) <= max_length:
        return Fitted(pair)
    return _POLICIES[policy](pair, max_length)


def _longer(pair: TokenizedPair) -> int:
    return max(len(pair.chosen), len(pair.rejected))


def _drop(pair: TokenizedPair, max_length: int) -> Fitted:
    return Fitted(pair, dropped="overlong")


def _truncate_prompt_left(pair: TokenizedPair, max_length: int) -> Fitted:
    room = max_length - _longer(pair)
    if room < 1:
        return Fitted(pair, dropped="response_too_long")
    if pair.images is not None and pair.images.count:
        return Fitted(pair, dropped="image_would_be_cut")
    return Fitted(replace(pair, prompt=pair.prompt[-room:]), cut=("prompt",))


def _truncate_response_right(pair: TokenizedPair, max_length: int) -> Fitted:
    room = max_length - len(pair.prompt)
    if room < 1:
        return Fitted(pair, dropped="prompt_too_long")
    fitted = replace(pair, chosen=pair.chosen[:room], rejected=pair.rejected[:room])
    if fitted.chosen == fitted.rejected:
        return Fitted(pair, dropped="identical_after_cut")
    cut = [name for name, side in (("chosen", pair.chosen), ("rejected", pair.rejected)) if len(side) > room]
    return Fitted(fitted, cut=tuple(cut))


_POLICIES: dict[str, Callable[[TokenizedPair, int], Fitted]] = {
    "drop": _drop,
    "error": _drop,
    "truncate_prompt_left": _truncate_prompt_left,
    "truncate_response_right": _truncate_response_right,
}
