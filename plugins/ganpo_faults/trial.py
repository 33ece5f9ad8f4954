"""What a fault test is: a family of trials, each of which passes or says what went wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ganpo_faults.site import Site


@dataclass(frozen=True)
class Trial:
    """One fault, and whether the promise held."""

    name: str
    passed: bool
    detail: str = ""
    """What was seen: the reason a run gave, or what is wrong."""


@dataclass(frozen=True)
class Family:
    """Trials of one promise."""

    name: str
    """As `ganpo faults --only NAME` takes it."""
    title: str
    """The fault, as the table says it."""
    must: str
    peers: str
    """What peers were measured to do, or nothing."""
    trials: int
    """How many trials `make faults` asks for; a family with a fixed list of cases ignores the number."""
    run: Callable[[Site, int], Iterator[Trial]]
    """Makes so many trials on a site, in order."""
    short: int = 1
    """How many the test suite asks for."""
