"""The rows of the lab's tables as data: a YAML file of configurations becomes a plan of what to train and measure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ganpo_core import ConfigError
from ganpo_lab.preferences import PreferenceRecipe
from ganpo_lab.reference import ReferenceRecipe

CLAIMS = Path(__file__).parent / "claims.yaml"
SEARCH = Path(__file__).parent / "search.yaml"
REFERENCE = "reference"
"""The row that is not trained; every table begins with it."""
READ_BY_SIGNALS = {"use": "hidden_state", "layer": -1}
"""The latents of which a critic is asked outside of training (C4)."""
WORLD = {"reference": ReferenceRecipe, "preferences": PreferenceRecipe}
"""What a protocol may change of its worlds."""


@dataclass(frozen=True)
class Configuration:
    """One row: a policy, or the reference."""

    name: str
    label: str
    run: Mapping[str, Any] | None
    """The run file without model, data, seed and output folder; None for the reference."""
    signals: bool = False
    """True where its critic and a reward model are compared with the oracle (C4)."""

    @property
    def plain_run(self) -> Any:
        """`run` as it comes back from JSON."""
        return json.loads(json.dumps(self.run))


@dataclass(frozen=True)
class Protocol:
    """Which worlds, and which of their prompts."""

    seeds: tuple[int, ...]
    split: Literal["dev", "test"]
    world: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What is unlike the lab's usual world: fields of its recipes, by `reference` and `preferences`."""
    match_on_own: bool = False
    """True where a policy's entropy is also matched on its own answers, which takes sampling."""


@dataclass(frozen=True)
class TablePlan:
    """One table: rows, the claims that they speak to, and what is compared with what."""

    name: str
    title: str
    claims: tuple[str, ...]
    protocol: Protocol
    rows: tuple[Configuration, ...]
    compare: tuple[tuple[str, str], ...]
    """(a, b): the paired difference a - b."""


@dataclass(frozen=True)
class Job:
    """One row in one world."""

    configuration: Configuration
    seed: int
    split: Literal["dev", "test"]
    world: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    match_on_own: bool = False

    @property
    def file(self) -> Path:
        """Where its result lies, under the folder of results."""
        return Path(self.configuration.name) / f"{self.split}-{self.seed}.json"


def read_plans(path: Path) -> list[TablePlan]:
    """The tables of a file, in its order. Raises ConfigError for what does not fit together."""
    document, rows = _read(path)
    plans = []
    for name, table in document["tables"].items():
        _check_keys(path, f"tables.{name}", table, {"title", "claims", "protocol", "rows", "compare"})
        protocol = document["protocols"].get(table["protocol"])
        if protocol is None:
            raise ConfigError(f"{path}: tables.{name}.protocol: '{table['protocol']}' is not among `protocols`")
        _check_protocol(path, f"protocols.{table['protocol']}", protocol)
        compare = tuple((first, second) for first, second in table["compare"])
        unknown = [row for row in (*table["rows"], *(row for pair in compare for row in pair)) if row not in rows]
        if unknown:
            raise ConfigError(f"{path}: tables.{name}: no row is called '{unknown[0]}'; rows: {', '.join(rows)}")
        # What is compared is measured, whether or not the table shows it.
        named = dict.fromkeys((REFERENCE, *table["rows"], *(row for pair in compare for row in pair)))
        plans.append(
            TablePlan(
                name=name,
                title=table["title"],
                claims=tuple(table["claims"]),
                protocol=Protocol(
                    tuple(protocol["seeds"]), protocol["split"], protocol.get("world", {}), protocol.get("match_on_own", False)
                ),
                rows=tuple(rows[row] for row in named),
                compare=compare,
            )
        )
    return plans


def jobs(plans: Sequence[TablePlan], seeds: Sequence[int] = (), only: Sequence[str] = ()) -> list[Job]:
    """What to run: table by table, seed by seed, so that whole tables exist as early as possible; nothing twice.

    `seeds` and `only` keep some of the seeds and rows. Raises ConfigError where nothing is left, one name is two rows, or one
    seed is two worlds.
    """
    rows: dict[str, Configuration] = {}
    for row in (row for plan in plans for row in plan.rows):
        if rows.setdefault(row.name, row) != row:
            raise ConfigError(f"lab claims: row '{row.name}' stands in two files and means two things; rename one")
    protocols: dict[int, tuple[Any, ...]] = {}
    for seed, protocol in ((seed, plan.protocol) for plan in plans for seed in plan.protocol.seeds):
        means = (protocol.world, protocol.match_on_own)
        if protocols.setdefault(seed, means) != means:
            raise ConfigError(f"lab claims: seed {seed} stands in two protocols and means two worlds; take another")
    for name in only:
        if name not in rows:
            raise ConfigError(f"lab claims: no row is called '{name}'; rows: {', '.join(sorted(rows))}")
    found = {
        (row.name, seed, plan.protocol.split): Job(
            row, seed, plan.protocol.split, plan.protocol.world, plan.protocol.match_on_own and row.run is not None
        )
        for plan in plans
        for seed in plan.protocol.seeds
        for row in plan.rows
        if (not seeds or seed in seeds) and (not only or row.name in only)
    }
    if not found:
        known = sorted({seed for plan in plans for seed in plan.protocol.seeds})
        raise ConfigError(f"lab claims: nothing to run; these tables have the seeds {', '.join(map(str, known))}")
    return list(found.values())


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Configuration]]:
    """A file's document, and its rows by name, with those of the file that it borrows from."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    _check_keys(path, "the file", document, {"protocols", "every_run", "rows", "tables"}, {"rows_of"})
    borrowed = _read(path.parent / document["rows_of"])[1] if "rows_of" in document else {}
    return document, {**borrowed, **{name: _row(path, name, row, document) for name, row in document["rows"].items()}}


def _row(path: Path, name: str, row: Mapping[str, Any], document: Mapping[str, Any]) -> Configuration:
    """A row's sections laid over those that all rows share, key by key."""
    _check_keys(path, f"rows.{name}", row, {"label"}, {"run", "signals"})
    if name == REFERENCE:
        return Configuration(name, row["label"], None)
    shared: Mapping[str, Mapping[str, Any]] = document["every_run"]
    changed: Mapping[str, Mapping[str, Any]] = row.get("run", {})
    run = {key: {**shared.get(key, {}), **changed.get(key, {})} for key in (*shared, *changed)}
    if "use" in changed.get("objective", {}):
        run["objective"] = dict(changed["objective"])
    signals = bool(row.get("signals", False))
    if signals and ("discriminator" not in run or run["latents"] != READ_BY_SIGNALS):
        raise ConfigError(f"{path}: rows.{name}.signals: needs a discriminator, and latents {READ_BY_SIGNALS}")
    return Configuration(name, row["label"], run, signals)


def _check_protocol(path: Path, place: str, protocol: Mapping[str, Any]) -> None:
    _check_keys(path, place, protocol, {"seeds", "split"}, {"world", "match_on_own"})
    world = protocol.get("world", {})
    _check_keys(path, f"{place}.world", world, set(), set(WORLD))
    for part, changed in world.items():
        # Its seed is the protocol's.
        _check_keys(path, f"{place}.world.{part}", changed, set(), {each.name for each in fields(WORLD[part])} - {"seed"})


def _check_keys(
    path: Path, place: str, section: object, needed: AbstractSet[str], allowed: AbstractSet[str] = frozenset()
) -> None:
    keys = set(section) if isinstance(section, Mapping) else set()
    for key in sorted(needed - keys):
        raise ConfigError(f"{path}: {place}: {key} is missing; it has {', '.join(sorted(needed | allowed))}")
    for key in sorted(keys - needed - allowed):
        raise ConfigError(f"{path}: {place}: unknown key {key}; it has {', '.join(sorted(needed | allowed))}")
