"""One slip of the keyboard in any key of a run file: refused, and with the key that was meant."""

from __future__ import annotations

import copy
import re
import string
from collections.abc import Iterator
from dataclasses import fields
from random import Random
from typing import Any

from ganpo_core.config import load_run
from ganpo_core.config.load import SECTIONS
from ganpo_core.config.sections import (
    AdversaryConfig,
    DataConfig,
    DataSource,
    LoraConfig,
    ModelConfig,
    SyncReference,
    TrainingConfig,
)
from ganpo_core.errors import ConfigError
from ganpo_core.plugins import load_plugins
from ganpo_faults.site import Site
from ganpo_faults.trial import Family, Trial

LEAST = 0.95
"""The share of suggestions that must be the key that was meant."""
LETTERS = string.ascii_lowercase + "_"

Place = tuple[dict[str, Any], tuple[str, ...], str, frozenset[str]]
"""A run that is right, the path of a section in it, a key of that section, and all keys of that section."""


def run(site: Site, trials: int) -> Iterator[Trial]:
    """Every key in turn, each with another slip, as often as it takes."""
    places = list(_places(site))
    site.random.shuffle(places)
    right = 0
    for number in range(trials):
        whole, path, key, known = places[number % len(places)]
        typo = slip(key, known, site.random)
        where = ".".join([*path, typo])
        problem = _problem(whole, path, key, typo, where)
        right += f"Did you mean '{key}'?" in (problem or "")
        yield Trial(f"{where} for {key}", problem is not None, problem or "accepted, or answered otherwise")
    said = f"{right} of {trials} ({right / trials:.1%}) of {len(places)} keys"
    yield Trial("the key that was meant is suggested", right >= LEAST * trials, said)


def slip(key: str, known: frozenset[str], draw: Random) -> str:
    """`key` with one letter dropped, added, replaced or swapped with its neighbour, which is no key itself."""
    while True:
        at = draw.randrange(len(key))
        kind = draw.choice(("drop", "add", "replace", "swap"))
        letter = draw.choice(LETTERS)
        typo = {
            "drop": key[:at] + key[at + 1 :],
            "add": key[:at] + letter + key[at:],
            "replace": key[:at] + letter + key[at + 1 :],
            "swap": key[:at] + key[at : at + 2][::-1] + key[at + 2 :],
        }[kind]
        if typo and typo not in known and not typo.startswith("x-"):
            return typo


def _problem(whole: dict[str, Any], path: tuple[str, ...], key: str, typo: str, where: str) -> str | None:
    """The line that names the misspelt key, or None where there is none."""
    written = copy.deepcopy(whole)
    section: Any = written
    for part in path:
        section = section[int(part)] if isinstance(section, list) else section.setdefault(part, {})
    section[typo] = section.pop(key, 1)
    try:
        load_run(written)
    except ConfigError as error:
        return next((line for line in error.problems if re.search(rf"\b{re.escape(where)}: unknown ", line)), None)
    return None


def _places(site: Site) -> Iterator[Place]:
    base: dict[str, Any] = {
        "model": {"path": str(site.model)},
        "data": {"path": str(site.pairs)},
        "objective": {"use": "dpo"},
        "output_dir": str(site.folder / "never"),
    }
    game: dict[str, Any] = {
        "latents": {"use": "hidden_state"},
        "discriminator": {"use": "mlp"},
        "divergence": {"use": "ragan"},
        "adversary": {"weight": 1.0},
    }
    listed = {**base, "adversaries": [{"name": "one", **game}]}
    sources = {**base, "data": {"sources": [{"path": str(site.pairs)}]}}
    yield from _each(base, (), SECTIONS)
    for path, cls in (
        (("model",), ModelConfig),
        (("model", "lora"), LoraConfig),
        (("data",), DataConfig),
        (("training",), TrainingConfig),
        (("training", "sync_reference"), SyncReference),
    ):
        yield from _each(base, path, _keys(cls))
    yield from _each(sources, ("data", "sources", "0"), _keys(DataSource))
    yield from _each({**base, **game}, ("adversary",), _keys(AdversaryConfig))
    yield from _each(listed, ("adversaries", "0"), ("name", "weight", *game))
    yield from _each(listed, ("adversaries", "0", "adversary"), _keys(AdversaryConfig))
    sections = {"objective": "objective", "latent_extractor": "latents"}
    for kind, name, entry in load_plugins().entries(in_run_file=True):
        section, keys = sections.get(kind, kind), ("use", *_keys(entry.component))
        used = {"use": name, **entry.component.example}
        whole = {**base, "objective": used} if kind == "objective" else {**base, **game, section: used}
        yield from _each(whole, (section,), keys)
        if kind == "objective" and name != "weighted":
            together = {**base, "objective": {"use": "weighted", "objectives": [{**used, "weight": 1.0}]}}
            yield from _each(together, ("objective", "objectives", "0"), (*keys, "weight"))


def _each(whole: dict[str, Any], path: tuple[str, ...], keys: tuple[str, ...]) -> Iterator[Place]:
    for key in keys:
        yield whole, path, key, frozenset(keys)


def _keys(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls) if field.init)


FAMILY = Family(
    name="typos",
    title="one-edit typos of keys of the run file and of every built-in component",
    must="all refused, 95 % with the right suggestion",
    peers="refused without one, or ignored",
    trials=1000,
    run=run,
    short=200,
)
