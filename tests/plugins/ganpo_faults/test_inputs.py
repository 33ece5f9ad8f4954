"""What the families of bad input are made of; their short form runs with the others in test_faults.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ganpo_faults import plugin_faults, rows, typos
from ganpo_faults.site import Server, Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = Server()
    yield Site(tmp_path_factory.mktemp("site"), server)
    server.close()


def test_a_slip_is_one_edit_and_no_key(site: Site) -> None:
    known = frozenset({"beta", "bet"})
    for _ in range(200):
        typo = typos.slip("beta", known, site.random)
        assert typo not in known
        assert abs(len(typo) - 4) <= 1


def test_every_reason_for_a_flawed_row_has_a_kind_of_row() -> None:
    """But for a label that is none, a template that refuses, and images, which need data and a tokenizer of their own."""
    from ganpo_core.data.flaws import BAD_IMAGE, Flaw

    made = {reason for reason, _ in rows.KINDS.values()}
    of_images = {*BAD_IMAGE, Flaw.IMAGE_COUNT, Flaw.IMAGE_IN_RESPONSE, Flaw.REFUSED_BY_PROCESSOR}
    assert {str(flaw) for flaw in Flaw} - made == {"bad_label", "refused_by_template", *map(str, of_images)}


def test_a_run_without_a_fault_would_be_noticed(site: Site, tmp_path: Path) -> None:
    """The verdict is on what happened: a run that ends well fails the trial."""
    passed, said = plugin_faults._verdict(0, "finished", "mine", "Mine.loss", tmp_path)
    assert not passed
    assert said.startswith("exit code 0; not one line; without mine; ")
