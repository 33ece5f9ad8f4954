"""Row against row: paired differences over worlds, which of them hold, and who wins prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ganpo_lab.configurations import REFERENCE
from ganpo_lab.evidence import AT_1, MATCHED, MATCHED_ON_OWN, Evidence, Setting
from ganpo_lab.intervals import Comparison, Differences, holm, over_worlds, sign_flips
from ganpo_lab.markdown import Column, row_name, table
from ganpo_lab.measure import TEMPERATURES

DIFFERENCES = (
    Column("T=0.7 reward", "reward", Setting(0.7)),
    Column("T=0.7 LC", "LC", Setting(0.7)),
    Column("T=1 reward", "reward", AT_1),
    Column("T=1 strict", "strict", AT_1),
    Column("T=1 LC", "LC", AT_1),
    Column("matched reward", "reward", MATCHED),
    Column("matched strict", "strict", MATCHED),
    Column("matched LC", "LC", MATCHED),
)
PRIMARY = (DIFFERENCES[6], DIFFERENCES[7])
"""What decides a comparison; corrected together for all comparisons of a table."""
NOT_ASKED = ["not measured: the protocol has no `match_on_own`"]
ON_OWN = tuple(Column(f"matched on own answers {name}", name, MATCHED_ON_OWN) for name in ("reward", "valid", "strict", "LC"))

Pair = tuple[str, str]


def differences(evidence: Evidence) -> list[str]:
    """The paired differences that a table asks for, with Student's 95 % intervals over worlds; `*` where one holds."""
    return _differences(evidence, DIFFERENCES)


def differences_on_own(evidence: Evidence) -> list[str]:
    """The same where entropy is matched on each policy's own answers, and every row minus the reference; no stars."""
    if not evidence.plan.protocol.match_on_own:
        return NOT_ASKED
    rows = [row.name for row in evidence.plan.rows if row.name != REFERENCE]
    return _differences(evidence, ON_OWN, (*evidence.plan.compare, *((row, REFERENCE) for row in rows)))


def _differences(evidence: Evidence, columns: Sequence[Column], pairs: Sequence[Pair] = ()) -> list[str]:
    found = Differences(evidence)
    holds = {key for key, chance in _adjusted(found).items() if chance < 0.05}
    lines = []
    for pair in pairs or evidence.plan.compare:
        seeds = evidence.seeds(*pair)
        cells = []
        for column in columns if seeds else ():
            star = "*" if (pair, column) in holds else ""
            cells.append(f"{found.of(*pair, column.measure, column.setting)}{star}")
        lines.append([_title(pair), str(len(seeds)), *(cells or ["not run", *[""] * (len(columns) - 1)])])
    return table(["A - B", "seeds", *(column.heading for column in columns)], lines)


def decisions(evidence: Evidence) -> list[str]:
    """What a star rests on, a line a comparison and deciding measure: each world, two intervals, two tests, Holm's correction."""
    found, lines = Differences(evidence), []
    adjusted = _adjusted(found)
    for pair in evidence.plan.compare:
        if not evidence.seeds(*pair):
            continue
        for column in PRIMARY:
            each = found.each(*pair, column.measure, column.setting)
            student, resampled = over_worlds(each), found.bootstrap(*pair, column.measure, column.setting)
            chances = (student.chance, adjusted[pair, column], sign_flips(each))
            lines.append([
                _title(pair), column.heading, str(student), f"[{resampled.low:+.3f}, {resampled.high:+.3f}]",
                " ".join(f"{value:+.3f}" for value in each), *(f"{chance:.4f}" for chance in chances),
            ])
    header = ["A - B", "measure", "mean, Student's interval", "bootstrap", "each world", "chance", "Holm", "sign flips"]
    return table(header, lines) if lines else ["not run"]


def against_reference(evidence: Evidence) -> list[str]:
    """Every row at matched entropy minus the reference at T = 1, on the same noise."""
    columns = [Column(f"matched {name}", name, MATCHED) for name in ("reward", "valid", "strict", "LC")]
    found, lines = Differences(evidence), []
    for row in evidence.plan.rows:
        seeds = evidence.seeds(row.name)
        if row.name == REFERENCE or not seeds:
            continue
        cells = [str(found.of(row.name, REFERENCE, column.measure, MATCHED)) for column in columns]
        lines.append([row_name(row), str(len(seeds)), *cells])
    return table(["row - reference", "seeds", *(column.heading for column in columns)], lines)


def duels(evidence: Evidence) -> list[str]:
    """C2 as the paper's figure 3 has it: A's wins over B by the oracle's reward, answer against answer to one prompt."""
    settings = [Setting(at, matched) for matched in (False, True) for at in TEMPERATURES]
    lines = []
    for first, second in evidence.plan.compare:
        seeds = evidence.seeds(first, second)
        cells = [_shares(_duel(evidence, first, second, seeds, setting)) for setting in settings if seeds]
        lines.append([_title((first, second)), str(len(seeds)), *(cells or ["not run", *[""] * (len(settings) - 1)])])
    heads = [f"{'matched' if setting.matched else 'as sampled'} T={setting.at}" for setting in settings]
    return table(["A against B", "seeds", *heads], lines)


def _adjusted(found: Differences) -> dict[tuple[Pair, Column], float]:
    """Holm's chances of the deciding measures of every comparison that can be made."""
    pairs = [pair for pair in found.evidence.plan.compare if found.evidence.seeds(*pair)]
    asked = [(pair, column) for pair in pairs for column in PRIMARY]
    chances = [found.of(*pair, column.measure, column.setting).chance for pair, column in asked]
    return dict(zip(asked, holm(chances), strict=True))


def _duel(evidence: Evidence, first: str, second: str, seeds: Sequence[int], setting: Setting) -> list[float]:
    """One share a world; answers are paired by their luck, and a tie counts one half."""
    shares = []
    for seed in seeds:
        gap = evidence.measured(first, seed, setting).every_reward - evidence.measured(second, seed, setting).every_reward
        shares.append(float(((np.sign(gap) + 1) / 2).mean()))
    return shares


def _shares(each: Sequence[float]) -> str:
    found: Comparison = over_worlds(each, null=0.5)
    return str(found).replace("+", "")


def _title(pair: Pair) -> str:
    return " - ".join(f"`{row}`" for row in pair)
