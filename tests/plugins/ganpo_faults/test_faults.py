"""The short form of every family: a few real runs are killed, damaged, poisoned, and must survive or say why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ganpo_faults.commands import app
from ganpo_faults.families import FAMILIES
from ganpo_faults.site import Server, Site
from ganpo_faults.table import write_json, write_table
from ganpo_faults.trial import Family, Trial
from typer.testing import CliRunner

OWN_TESTS = ("soak", "trust", "processes")
"""Families without a short form here: memory needs its thousand steps to hold still; the others are test_trust.py,
test_isolation.py and test_watchdog.py."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One process that imports torch once, for all families."""
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.name not in OWN_TESTS], ids=lambda own: own.name)
def test_the_short_form_holds(family: Family, server: Server, tmp_path: Path) -> None:
    trials = list(family.run(Site(tmp_path, server), family.short))
    assert trials
    assert not [trial for trial in trials if not trial.passed]


def test_the_table_counts_and_names_what_failed(tmp_path: Path) -> None:
    family = Family("drops", "drops", "2 of 2", "0 of 2", 2, lambda site, trials: iter(()))
    results = {"drops": [Trial("first", True), Trial("second", False, "it broke")]}
    table = write_table([family], results)
    assert "| drops | 2 of 2 | 1 of 2 | 0 of 2 |" in table
    assert "FAILED  drops: second: it broke" in table
    write_json([family], results, {"drops": 1.0}, tmp_path / "new" / "found.json")
    found = json.loads((tmp_path / "new" / "found.json").read_text())["families"]["drops"]
    assert (found["passed"], found["trials"], found["each"][1]["detail"]) == (1, 2, "it broke")


def test_names_of_families_are_unique_and_unknown_ones_are_refused() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    refused = CliRunner().invoke(app, ["--only", "nothing"])
    assert refused.exit_code == 2
    assert "is none of kills" in refused.output.replace("\n", " ")


def test_a_harness_that_stumbles_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(site: Site, trials: int) -> Iterator[Trial]:
        yield Trial("one", True)
        raise RuntimeError("no such thing")

    monkeypatch.setattr("ganpo_faults.families.FAMILIES", (Family("drops", "drops", "all", "", 1, stumble),))
    done = CliRunner().invoke(app, ["--folder", str(tmp_path / "new")])
    assert done.exit_code == 1
    assert "| drops | all | 1 of 2 |" in done.output
    assert "no such thing" in done.output
