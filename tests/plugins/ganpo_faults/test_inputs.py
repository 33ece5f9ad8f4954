"""The short form of the families of bad input; canaries and processes have tests of their own beside the core's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ganpo_faults import files, plugin_faults, rows, secrets, settings, typos
from ganpo_faults.site import Site
from ganpo_faults.trial import Family, Trial


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site"), seed=0) as made:
        yield made


def failures(trials: list[Trial]) -> list[str]:
    return [f"{trial.name}: {trial.detail}" for trial in trials if not trial.passed]


FAMILIES = (typos.FAMILY, settings.FAMILY, rows.FAMILY, files.FAMILY, plugin_faults.FAMILY, secrets.FAMILY)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_no_fault_of_the_short_form_passes_unseen(family: Family, site: Site) -> None:
    found = list(family.run(site, family.short))
    assert len(found) >= family.short or family in (rows.FAMILY, files.FAMILY)
    assert not failures(found)


def test_a_slip_is_one_edit_and_no_key(site: Site) -> None:
    known = frozenset({"beta", "bet"})
    for _ in range(200):
        typo = typos.slip("beta", known, site.random)
        assert typo not in known
        assert abs(len(typo) - 4) <= 1


def test_every_reason_for_a_flawed_row_has_a_kind_of_row() -> None:
    """But for a label that is none and a template that refuses, which need data and a tokenizer of their own."""
    from ganpo_core.data.flaws import Flaw

    made = {reason for reason, _ in rows.KINDS.values()}
    assert {str(flaw) for flaw in Flaw} - made == {"bad_label", "refused_by_template"}


def test_a_run_without_a_fault_would_be_noticed(site: Site, tmp_path: Path) -> None:
    """The verdict is on what happened: a run that ends well fails the trial."""
    passed, said = plugin_faults._verdict(0, "finished", "mine", "Mine.loss", tmp_path)
    assert not passed
    assert said.startswith("exit code 0; not one line; without mine; ")
