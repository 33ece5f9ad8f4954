"""Tables from saved outcomes: wins, differences, corrections, and the page that they stand in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ganpo_lab.configurations import CLAIMS, SEARCH, Configuration, Protocol, TablePlan, read_plans
from ganpo_lab.evidence import Evidence, Setting
from ganpo_lab.findings import KINDS
from ganpo_lab.measure import COLDER, TEMPERATURES, Sampling
from ganpo_lab.outcomes import GRADES, LETTERS, REWARDS
from ganpo_lab.page import BLOCK, rendered, write_page

from ganpo_core import GanpoError

PLAN = TablePlan(
    "small", "small", ("C1",), Protocol((0, 1), "test"),
    (Configuration("reference", "the reference", None), Configuration("policy", "a policy", {"seed": {}})),
    (("policy", "reference"),),
)


def letter(reward: float, grade: int = 2) -> str:
    return LETTERS[len(GRADES) * REWARDS.index(reward) + grade]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Eight prompts in each of two worlds: the policy earns 3, 3, 3, 3, 2, 2, 1 and nothing, the rivals 2."""
    figures = {"divergence": 0.0, "latent": 0.0, "shift": 0.0}
    earned = letter(3.0) * 4 + letter(2.0, 0) * 2 + letter(1.0, 0) + "."
    for seed in (0, 1):
        reference = [
            Sampling(kind, at, at, False, index, letter(2.0, 0) * 8, LETTERS[10] * 8)  # type: ignore[arg-type]
            for at in TEMPERATURES
            for index, kind in enumerate(("own", "rival", "rival", "pool"))
        ]
        reference += [Sampling("own", 1.0, cold, False, 0, letter(3.0) * 8, LETTERS[9] * 8) for cold in COLDER]
        policy = [
            Sampling("own", at, 1.2 * at if matched else at, matched, 0, earned, "klmnklmn")
            for at in TEMPERATURES
            for matched in (False, True)
        ]
        training = [{"step": 2, "rewards/margins": 0.5, "rewards/accuracies": 0.75}]
        for row, run, samples in (("reference", None, reference), ("policy", {"seed": {}}, policy)):
            found: dict[str, Any] = {"run": run, "figures": figures, "samples": [each.as_json() for each in samples]}
            if run is not None:
                found["training"] = training
            (tmp_path / row).mkdir(exist_ok=True)
            (tmp_path / row / f"test-{seed}.json").write_text(json.dumps(found))
    return tmp_path


def test_wins_by_hand(results: Path) -> None:
    """Above 2 four times, 2 twice (one half each), below twice: 5 of 8. Lengths 10, 11, 12, 13 against 10."""
    measured = Evidence(PLAN, results).measured("policy", 0, Setting(1.0))
    assert measured.win.mean() == 5 / 8
    assert measured.reward.mean() == 17 / 8
    assert (measured.valid.sum(), measured.strict.sum()) == (7, 4)
    assert measured.longer.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_matched_temperature_is_read_apart(results: Path) -> None:
    evidence = Evidence(PLAN, results)
    assert evidence.measured("policy", 0, Setting(1.0, matched=True)).temperature == pytest.approx(1.2)
    assert evidence.measured("reference", 0, Setting(1.0, matched=True)).temperature == 1.0
    assert evidence.measured("reference", 0, Setting(1.0, colder=0.82)).strict.mean() == 1.0


def test_the_reference_sampled_colder_stands_at_every_temperature_from_1_on(results: Path) -> None:
    """At T = 1.5 its answers at 1 and below, which earn 2 or 3, against rivals that earn 2: wins of one half, and all."""
    lines = KINDS["temperatures"](Evidence(PLAN, results))
    assert "| reference sampled at 1 | 2 | colder |  |  |  | 0.500 |  |  |  | 1.000 |  |  |  | 0.000 |" in lines
    assert "| reference sampled at 0.82 | 2 | colder |  |  | 1.000 | 1.000 |  |  | 1.000 | 1.000 |  |  | 1.000 | 1.000 |" in lines


def test_a_critic_is_compared_with_the_reward_model_world_by_world(results: Path) -> None:
    """0.1 less 0.3, and 0.2 less 0.3: mean -0.15, error 0.05, times the 97.5 % point of one degree of freedom, 12.7062."""
    for seed, critic in ((0, 0.1), (1, 0.2)):
        path = results / "policy" / f"test-{seed}.json"
        entries = [
            {"at": 1.5, "signal": signal, "pearson": [value, 0, 0], "spearman": None}
            for signal, value in (("critic", critic), ("reward model", 0.3))
        ]
        path.write_text(json.dumps({**json.loads(path.read_text()), "correlations": entries}))
    lines = KINDS["correlations"](Evidence(PLAN, results))
    assert "| `policy` a policy | 1.5 | critic | 2 | +0.150 (+0.10, +0.20) | constant |" in lines
    assert "| `policy` a policy | 1.5 | critic - reward model | 2 | -0.150 [-0.785, +0.485] | constant |" in lines


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_table_is_one(kind: str, results: Path) -> None:
    lines = KINDS[kind](Evidence(PLAN, results))
    assert len({line.count("|") for line in lines}) == 1
    if kind == "summary":
        assert sum("reference sampled at" in line for line in lines) == len(COLDER)
        assert any("`policy` a policy | 2 | 1.20 | 2.125 | 0.875 | 0.500 | 0.625 |" in line for line in lines)


def test_a_row_that_has_not_run_says_so(results: Path) -> None:
    for seed in (0, 1):
        (results / "policy" / f"test-{seed}.json").unlink()
    for kind in ("summary", "differences"):
        assert any("not run" in line for line in KINDS[kind](Evidence(PLAN, results)))


def test_a_result_of_another_configuration_is_not_read(results: Path) -> None:
    stale = json.loads((results / "policy/test-1.json").read_text())
    (results / "policy/test-1.json").write_text(json.dumps({**stale, "run": {"seed": {"other": 1}}}))
    assert Evidence(PLAN, results).seeds("policy") == [0]


def test_the_page_keeps_what_was_written_by_hand(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "lab.md"
    ours = "<!-- lab: small summary -->\nold\n<!-- end -->\n"
    page.write_text(f"by hand ![](lab/small.png)\n{ours}<!-- lab: other summary -->\nkept\n<!-- end -->\n")
    write_page(page, [PLAN], results)
    text = page.read_text()
    assert (tmp_path / "lab" / "small.png").read_bytes()[:4] == b"\x89PNG"
    assert text.startswith("by hand ") and "old" not in text and "kept" in text and "a policy" in text
    assert rendered(text, [PLAN], results) == text
    with pytest.raises(GanpoError, match="no table of kind 'sumary'"):
        rendered("<!-- lab: small sumary -->\n<!-- end -->", [PLAN], results)
    with pytest.raises(GanpoError, match="no page at"):
        write_page(tmp_path / "none.md", [PLAN], results)


def test_the_committed_page_says_what_the_committed_results_say(root: Path) -> None:
    """Tables of means and levels; those with intervals take minutes, and are made by the same call."""
    plans = [*read_plans(CLAIMS), *read_plans(SEARCH)]
    text = (root / "docs" / "lab.md").read_text(encoding="utf-8")
    results = root / "benchmarks" / "results" / "lab"
    assert rendered(text, plans, results, ("temperatures", "margins", "correlations")) == text
    shown = {block["table"] for block in BLOCK.finditer(text)}
    assert shown == {plan.name for plan in plans}


def test_every_committed_result_is_of_a_row_that_still_exists(root: Path) -> None:
    files = {path.relative_to(root / "benchmarks/results/lab") for path in (root / "benchmarks/results/lab").glob("*/*.json")}
    known = {
        Path(row.name) / f"{plan.protocol.split}-{seed}.json"
        for plan in (*read_plans(CLAIMS), *read_plans(SEARCH))
        for row in plan.rows
        for seed in plan.protocol.seeds
    }
    assert files and files <= known
    for path in files:
        found = json.loads((root / "benchmarks/results/lab" / path).read_text())
        assert np.isfinite(list(found["figures"].values())).all()
