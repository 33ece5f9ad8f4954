"""Sentences on several runs, and on evaluations beside the reference's."""

from __future__ import annotations

from typing import Any

from ganpo_report.comparisons import comparisons, evaluated, shared
from ganpo_report.findings import Finding
from ganpo_report.tables import Table
from run_samples import CARD, MakeRun


def test_runs_of_other_data_weights_and_seeds_are_compared_with_a_warning(make_run: MakeRun) -> None:
    one = make_run(name="one")
    alike = make_run(name="alike")
    assert [finding.level for finding in comparisons([one, alike])] == ["note"]
    other = make_run(
        name="other",
        settings={"seed": 1},
        card={
            "data": {**CARD["data"], "tokens": "e" * 64},
            "model": {"path": "m", "commit": None, "files": {"model.safetensors": "f" * 64}},
        },
    )
    found = comparisons([one, other])
    assert [finding.level for finding in found] == ["warning", "warning"]
    assert "different tokens" in found[0].text
    assert "different weights" in found[1].text
    assert not comparisons([one])


def test_what_is_found_in_every_run_is_said_once() -> None:
    one, two, three = (Finding("note", text) for text in "abc")
    assert shared([[one, two], [two, three]]) == [two]
    assert shared([[one, two]]) == []


def row(policy: str, temperature: float, strict: float, matched: bool = False) -> dict[str, Any]:
    return {"policy": policy, "temperature": temperature, "matched": matched, "strict": strict}


def test_a_table_without_matched_entropy_is_remarked_on() -> None:
    columns = ("policy", "temperature", "matched", "strict")
    hot = Table("lab", columns, (row("reference", 1.0, 0.4), row("dpo", 1.0, 0.5)))
    [found] = evaluated([hot])
    assert found.level == "note"
    assert "no row at matched entropy" in found.text
    assert not evaluated([Table("cold", columns, (row("dpo", 0.5, 0.5),))])
    assert not evaluated([Table("no temperatures", ("policy", "strict"), ({"policy": "dpo", "strict": 0.5},))])


def test_rows_at_matched_entropy_are_read_against_the_reference_at_1() -> None:
    columns = ("policy", "temperature", "matched", "strict")
    rows = (
        row("colder reference", 0.82, 0.61), row("reference", 0.5, 0.8), row("reference", 1.0, 0.46),
        row("dpo", 1.0, 0.5), row("dpo", 1.18, 0.2, True), row("mse", 1.25, 0.47, True),
    )  # fmt: skip
    worse, better = evaluated([Table("lab", columns, rows)])
    assert (worse.level, better.level) == ("note", "good")
    assert worse.text == (
        "dpo: at the reference's token entropy (T = 1.18) strict is 0.200; the reference's own is 0.460."
    )
