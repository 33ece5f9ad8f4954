"""Paired comparisons over worlds: intervals that hold the truth as often as they say, corrections, and duels."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from ganpo_lab.configurations import Configuration, Protocol, TablePlan
from ganpo_lab.evidence import Evidence, Setting, asked, keys_told
from ganpo_lab.findings import KINDS
from ganpo_lab.intervals import Differences, holm, over_worlds, sign_flips
from ganpo_lab.measure import COLDER, TEMPERATURES, Sampling, World
from ganpo_lab.outcomes import GRADES, LETTERS, REWARDS
from ganpo_lab.world import draw_requests, judge, parse
from ganpo_lab.writer import write

ROWS = ("one", "two", "three")
PLAN = TablePlan(
    "many", "many", ("C1",), Protocol(tuple(range(8)), "test", match_on_own=True),
    (Configuration("reference", "the reference", None), *(Configuration(row, row, {"seed": {}}) for row in ROWS)),
    tuple((first, second) for first in ("reference", *ROWS) for second in ("reference", *ROWS) if first != second),
)
PROMPTS = 64


def letters(rewards: list[float], grade: int = 2) -> str:
    return "".join("." if reward == 0 else LETTERS[len(GRADES) * REWARDS.index(reward) + grade] for reward in rewards)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The reference earns 2 and is never strict; the rows earn 3 in 40 to 47 of 64 prompts, by world, and 0 elsewhere."""
    for seed in PLAN.protocol.seeds:
        flat = letters([2.0] * PROMPTS, 0), LETTERS[10] * PROMPTS
        reference = [
            Sampling(kind, at, at, False, index, *flat)  # type: ignore[arg-type]
            for at in TEMPERATURES
            for index, kind in enumerate(("own", "rival", "rival", "pool"))
        ]
        reference += [Sampling("own", 1.0, cold, False, 0, *flat) for cold in COLDER]
        good = 40 + seed
        earned = letters([3.0] * good + [0.0] * (PROMPTS - good)), "klmn" * (PROMPTS // 4)
        policy = [Sampling("own", at, at, matched, 0, *earned) for at in TEMPERATURES for matched in (False, True)]
        worse = letters([3.0] * 32 + [0.0] * 32), "klmn" * (PROMPTS // 4)
        policy.append(Sampling("own", 1.0, 1.25, True, 0, *worse, on_own=True))
        for row in ("reference", *ROWS):
            found: dict[str, Any] = {
                "run": None if row == "reference" else {"seed": {}},
                **({} if row == "reference" else {"match_on_own": True}),
                "samples": [each.as_json() for each in (reference if row == "reference" else policy)],
            }
            (tmp_path / row).mkdir(exist_ok=True)
            (tmp_path / row / f"test-{seed}.json").write_text(json.dumps(found))
    return tmp_path


def test_students_interval_by_hand() -> None:
    """1 to 5: mean 3, error sqrt(2.5 / 5), the 97.5 % point of four degrees of freedom 2.776445, and t = 4.2426."""
    found = over_worlds([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.value, found.low) == pytest.approx((3.0, 3.0 - 2.776445 * 0.5**0.5), abs=1e-5)
    assert found.high - 3.0 == pytest.approx(3.0 - found.low)
    assert found.chance == pytest.approx(0.01324, abs=1e-5)
    assert over_worlds([1.0, 2.0, 3.0, 4.0, 5.0], null=3.0).chance == pytest.approx(1.0)
    assert str(found) == "+3.000 [+1.037, +4.963]"


def test_one_world_decides_nothing() -> None:
    found = over_worlds([0.4])
    assert (found.value, found.chance) == (0.4, 1.0) and math.isnan(found.low)
    assert str(found) == "+0.400 [one world]"


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Five worlds about 0: 95 of 100 intervals hold it; percentiles of resampled worlds do so 84 times."""
    draw = np.random.default_rng(0)
    worlds = draw.standard_normal((2000, 5))
    held = np.mean([found.low <= 0 <= found.high for found in map(over_worlds, worlds)])
    assert 0.935 < held < 0.965
    resampled = np.array([row[draw.integers(5, size=(500, 5))].mean(1) for row in worlds])
    low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) < 0.87


def test_changes_of_sign_are_counted() -> None:
    """All of one sign: only itself and its mirror are as far, 2 of 32. Of 3, -1 and -1 no change brings the sum nearer to 0."""
    assert sign_flips([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)
    assert sign_flips([3.0, -1.0, -1.0]) == 1.0


def test_holm_by_hand() -> None:
    """0.01, 0.04, 0.03 of three: 3 * 0.01, then 2 * 0.03, then 0.04 lifted to the one before it."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_a_difference_is_of_worlds(results: Path) -> None:
    """Strict in (40 + seed) / 64 less 0: mean 43.5 / 64; the sd of 0 to 7 is sqrt(6), the 97.5 % point of seven 2.364624."""
    found = Differences(Evidence(PLAN, results))
    strict = found.of("one", "reference", "strict", Setting(1.0))
    assert strict.value == pytest.approx(43.5 / 64)
    assert strict.high - strict.value == pytest.approx(2.364624 * (6 / 8) ** 0.5 / 64, rel=1e-5)
    assert found.each("one", "two", "LC", Setting(1.0)) == [0.0] * 8
    resampled = found.bootstrap("one", "reference", "strict", Setting(1.0))
    assert resampled.low < resampled.estimate < resampled.high and resampled.estimate == pytest.approx(43.5 / 64)
    assert found.bootstrap("one", "two", "strict", Setting(1.0)).high == 0


def test_length_control_can_be_decided_among_many(results: Path) -> None:
    """24 comparisons: a chance that 300 resamples bound by 2 / 301 would be 0.16 after Holm's correction, whatever was found."""
    lines = KINDS["differences"](Evidence(PLAN, results))
    cells = [cell.strip() for cell in next(line for line in lines if line.startswith("| `one` - `reference`")).split("|")]
    assert cells[-2].endswith("*") and cells[-3].endswith("*") and not any(cell.endswith("*") for cell in cells[:-3])
    equal = next(line for line in lines if line.startswith("| `one` - `two`"))
    assert "*" not in equal and equal.count("+0.000 [+0.000, +0.000]") == 8


def test_what_a_star_rests_on_is_told(results: Path) -> None:
    """Eight worlds of one sign: the exact test of changed signs gives 2 / 256."""
    lines = KINDS["decisions"](Evidence(PLAN, results))
    assert len(lines) == 2 + 2 * len(PLAN.compare)
    line = next(line for line in lines if line.startswith("| `one` - `reference` | matched strict |"))
    assert "+0.625 +0.641 +0.656 +0.672 +0.688 +0.703 +0.719 +0.734" in line
    assert line.endswith("| 0.0078 |")


def test_what_is_matched_on_own_answers_is_read_apart(results: Path) -> None:
    """32 of 64 strict there, 40 to 47 elsewhere; against the reference's 0, and without stars, which the other two decide."""
    evidence = Evidence(PLAN, results)
    mine = next(line for line in KINDS["on_own"](evidence) if line.startswith("| `one`"))
    assert mine.startswith("| `one` one | 8 | 1.25 | 1.500 | 0.500 | 0.500 |")
    lines = KINDS["differences_on_own"](evidence)
    assert len(lines) == 2 + len(PLAN.compare) + len(ROWS)
    assert any(line.startswith("| `one` - `reference` | 8 | -0.500 [-0.500, -0.500] | -0.500") for line in lines)
    assert not any("*" in line for line in lines)


def test_a_result_that_lacks_what_a_protocol_asks_for_is_not_read(results: Path) -> None:
    path = results / "one" / "test-3.json"
    found = json.loads(path.read_text())
    del found["match_on_own"]
    path.write_text(json.dumps(found))
    assert Evidence(PLAN, results).seeds("one") == [0, 1, 2, 4, 5, 6, 7]


def test_duels_by_hand(results: Path) -> None:
    """3 against 2 is won, 0 against 2 lost: 43.5 of 64 prompts on average, and the reverse for the reference."""
    lines = KINDS["duels"](Evidence(PLAN, results))
    mine = next(line for line in lines if line.startswith("| `one` - `reference`"))
    theirs = next(line for line in lines if line.startswith("| `reference` - `one`"))
    assert mine.count(" 0.680 [") == theirs.count(" 0.320 [") == 2 * len(TEMPERATURES)
    assert next(line for line in lines if line.startswith("| `one` - `two`")).count("0.500 [0.500, 0.500]") == 8


def test_lengths_tell_how_many_answers_stand_behind_a_share(results: Path) -> None:
    """Lengths 10 to 13, a quarter each, of 512 answers: bounds at 10, 11 and 12, 128 answers in each bucket.

    A world's first 40 to 47 answers win, so the share of a bucket is the mean over worlds of 10 to 12 in 16.
    """
    lines = KINDS["lengths"](Evidence(PLAN, results))
    line = next(line for line in lines if line.startswith("| `one` one | T=1 |"))
    shares = [sum((40 + seed + 3 - place) // 4 for seed in range(8)) / 128 for place in range(4)]
    counted = [(float(cell.split()[0]), cell.split()[-1]) for cell in line.split("|")[3:-2]]
    assert [count for _, count in counted] == ["(128)"] * 4
    assert [share for share, _ in counted] == pytest.approx(shares, abs=5e-4)


def test_keys_told_are_those_of_the_answers() -> None:
    """3000 answers of the imperfect writer: what the reward is made of, counted in the answers themselves."""
    draw = random.Random(3)
    requests = draw_requests("train", 3000, draw)
    answers = [write(request, draw) for request in requests]
    rewards = np.array([[judge(request, answer).reward] for request, answer in zip(requests, answers, strict=True)])
    extra, cover = keys_told(rewards, np.array([float(len(request.keys)) for request in requests]))
    counts: Counter[float] = Counter()
    for index, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        record = parse(answer[:-1]) or []
        first = dict(reversed(record))
        right = sum(first.get(key) == request.target(key) for key in request.keys) / len(request.keys)
        more = min(3, sum(key not in request.keys for key, _ in record))
        assert (extra[index, 0], cover[index, 0]) == pytest.approx((more, right))
        counts[more] += 1
    assert min(counts[0], counts[1], counts[2], counts[3]) > 20


def test_the_prompts_are_those_of_the_world() -> None:
    world = World(205, "test", 512, cast(Any, None))
    assert asked(205, "test", 512).tolist() == [len(request.keys) for request in world.requests]
