"""The rows of the lab's tables as data: a YAML file of configurations becomes a plan of what to train and measure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ganpo_core import ConfigError

CLAIMS = Path(__file__).parent / "claims.yaml"
SEARCH = Path(__file__).parent / "search.yaml"
REFERENCE = "reference"
"""The row that is not trained; every table begins with it."""
READ_BY_SIGNALS = {"use": "hidden_state", "layer": -1}
"""The latents of which a critic is asked outside of training (C4)."""


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

    @property
    def file(self) -> Path:
        """Where its result lies, under the folder of results."""
        return Path(self.configuration.name) / f"{self.split}-{self.seed}.json"


def read_plans(path: Path) -> list[TablePlan]:
    """The tables of a file, in its order. Raises ConfigError for what does not fit together."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    rows = {name: _row(path, name, row, document) for name, row in document["rows"].items()}
    plans = []
    for name, table in document["tables"].items():
        protocol = document["protocols"].get(table["protocol"])
        if protocol is None:
            raise ConfigError(f"{path}: tables.{name}.protocol: '{table['protocol']}' is not among `protocols`")
        compare = tuple((first, second) for first, second in table.get("compare", ()))
        unknown = [row for row in (*table["rows"], *(row for pair in compare for row in pair)) if row not in rows]
        if unknown:
            raise ConfigError(f"{path}: tables.{name}: no row is called '{unknown[0]}'; rows: {', '.join(rows)}")
        plans.append(
            TablePlan(
                name=name,
                title=table["title"],
                claims=tuple(table["claims"]),
                protocol=Protocol(tuple(protocol["seeds"]), protocol["split"]),
                rows=tuple(rows[row] for row in dict.fromkeys((REFERENCE, *table["rows"]))),
                compare=compare,
            )
        )
    return plans


def jobs(plans: Sequence[TablePlan], seeds: Sequence[int] | None = None, only: Sequence[str] = ()) -> Iterator[Job]:
    """What to run: table by table, seed by seed, so that whole tables exist as early as possible; nothing twice.

    `seeds` replaces the protocols' own; `only` keeps some rows. Raises ConfigError for a row that no table has.
    """
    known = {row.name for plan in plans for row in plan.rows}
    for name in only:
        if name not in known:
            raise ConfigError(f"lab claims: no row is called '{name}'; rows: {', '.join(sorted(known))}")
    seen: set[tuple[str, int, str]] = set()
    for plan in plans:
        for seed in plan.protocol.seeds if seeds is None else seeds:
            for row in plan.rows:
                key = (row.name, seed, plan.protocol.split)
                if key not in seen and (not only or row.name in only):
                    seen.add(key)
                    yield Job(row, seed, plan.protocol.split)


def _row(path: Path, name: str, row: Mapping[str, Any], document: Mapping[str, Any]) -> Configuration:
    """A row's sections laid over those that all rows share, key by key."""
    unknown = set(row) - {"label", "run", "signals"}
    if unknown:
        raise ConfigError(f"{path}: rows.{name}.{min(unknown)}: unknown key; a row has label, run and signals")
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
