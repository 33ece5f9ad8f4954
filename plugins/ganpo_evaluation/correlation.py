"""`ganpo evaluate critic-correlation`: whose score follows the oracle's where the policy is hot (Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ganpo_core import DataError, Prompt, Scorer, statistics
from ganpo_evaluation.language_model import LanguageModel
from ganpo_evaluation.paper import FIGURE_4
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.sampling import Sampling, generate

PoolMode = Literal["single", "per_prompt"]
NOTES = {
    "single": "Points are (prompt, response): one random response for each of the pool's slots, prompts taken in turn. The "
    "paper's \"single response (N=1) from a pool k=1024\" is read so; --pool-mode per_prompt reads it otherwise.",
    "per_prompt": "Several responses to each prompt; the correlation within a prompt, averaged over prompts.",
}


def correlate(
    policy: LanguageModel,
    prompts: Sequence[Prompt],
    temperatures: Sequence[float],
    judges: Mapping[str, Scorer],
    oracle: Scorer,
    pool: int,
    mode: PoolMode,
    sampling: Sampling,
    facts: dict[str, Any],
) -> Result:
    """Correlations of each judge's scores with the oracle's, with bootstrap intervals."""
    if mode == "per_prompt" and pool < 3:
        raise DataError(f"--pool: a correlation within a prompt needs 3 responses, got {pool}")
    copies = pool if mode == "per_prompt" else -(-pool // len(prompts))
    slots = [prompt for _ in range(copies) for prompt in prompts]
    slots = slots if mode == "per_prompt" else slots[:pool]
    rows: list[Row] = []
    notes = [NOTES[mode]]
    for temperature in temperatures:
        responses = generate(policy, slots, replace(sampling, temperature=temperature))
        truth = list(oracle(slots, responses))
        for name, score in judges.items():
            values = list(score(slots, responses))
            row: dict[str, str | float | int | None] = {"judge": name, "T": temperature}
            flat = [who for who, scores in (("the oracle", truth), (name, values)) if np.ptp(scores) == 0]
            if flat or len(values) < 3:
                why = f"{' and '.join(flat)} gave every response the same score" if flat else "three points are needed"
                notes.append(f"{name} at T = {temperature:g}: no correlation: {why}")
                row |= {"pearson": None, "points": len(values)}
            elif mode == "single":
                for found in (statistics.pearson(values, truth), statistics.spearman(values, truth)):
                    row |= _estimated(found.name, found.interval)
                row["points"] = len(values)
            else:
                row |= _within(values, truth, len(prompts))
            rows.append(row)
    title = f"Correlation with the oracle's score, {policy.name}"
    return Result("critic_correlation", title, rows, FIGURE_4, notes, facts=facts)


def draw(result: Result, figure: Any) -> None:
    """A bar for each judge and temperature, the paper's beside ours."""
    axes = figure.subplots()
    bars = [(f"{row['judge']}\nT {row['T']:g}", row.get("pearson"), "tab:blue") for row in result.rows]
    bars += [(f"{row['judge']}\nT {row['T']:g}\n(paper)", row["pearson"], "lightgray") for row in result.paper]
    for place, (_, height, colour) in enumerate(bars):
        axes.bar(place, height or 0.0, color=colour, edgecolor="black", linewidth=0.5)
    axes.set(xticks=range(len(bars)), ylabel="Pearson's r with the oracle", ylim=(-1, 1))
    axes.set_xticklabels([label for label, _, _ in bars], fontsize=8)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)


def _within(values: Sequence[float], truth: Sequence[float], num_prompts: int) -> dict[str, float | None]:
    """Pearson's r within each prompt, averaged; prompts on which either side is constant have none."""
    own, other = (np.array(each).reshape(-1, num_prompts).T for each in (values, truth))
    told = [(a, b) for a, b in zip(own, other, strict=True) if np.ptp(a) > 0 and np.ptp(b) > 0]
    if not told:
        return {"pearson": None, "points": 0}
    found = [float(np.corrcoef(a, b)[0, 1]) for a, b in told]
    interval = statistics.paired_difference([found], [[0.0] * len(found)])
    return {**_estimated("pearson", interval), "points": len(told)}


def _estimated(name: str, interval: statistics.Interval) -> dict[str, float]:
    return {name: interval.estimate, f"{name} low": interval.low, f"{name} high": interval.high}
