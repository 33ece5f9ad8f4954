"""`ganpo evaluate temperature`: policies against their reference from cold to hot, and at equal entropy (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ganpo_core import ConfigError, Prompt, Scorer, statistics
from ganpo_core.entropy import temperature_of
from ganpo_evaluation.language_model import LanguageModel
from ganpo_evaluation.matching import Sequences, entropy_of
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.sampling import Sampling, generate

TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 1.0, 1.25, 1.5)
NOTES = (
    "win: against the reference's own samples at the same T, drawn with other luck; a tie is one half.",
    "matched T: at which the policy is as random (mean token entropy, teacher-forced on the pairs) as the reference at T;",
    "a policy that is merely surer of itself looks better at T >= 1 and not there. Compare also with the colder reference.",
)


@dataclass(frozen=True)
class Sampled:
    """One model's responses at one temperature, judged."""

    scores: list[float]
    lengths: list[float]
    """Characters."""


class Bench:
    """The same prompts, luck and judge for every model; a model is run once for each temperature."""

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling, score: Scorer) -> None:
        self.prompts = prompts
        self._sampling, self._score = sampling, score
        self._found: dict[tuple[str, float, int], Sampled] = {}

    def at(self, model: LanguageModel, temperature: float, other_luck: bool = False) -> Sampled:
        """Responses of a model, with the shared luck or with that of the opponents."""
        seed = self._sampling.seed + 1_000_003 * other_luck
        key = (model.name, temperature, seed)
        if key not in self._found:
            responses = generate(model, self.prompts, replace(self._sampling, temperature=temperature, seed=seed))
            scores = [float(value) for value in self._score(self.prompts, responses)]
            self._found[key] = Sampled(scores, [float(len(response)) for response in responses])
        return self._found[key]


def sweep(
    policies: Sequence[LanguageModel],
    reference: LanguageModel,
    temperatures: Sequence[float],
    bench: Bench,
    sequences: Sequences,
    say: Callable[[str], None],
    facts: dict[str, Any],
) -> Result:
    """Every policy at every temperature, at its matched ones, and the reference merely sampled colder."""
    names = [policy.name for policy in policies]
    if len({*names, reference.name}) <= len(names):
        raise ConfigError(f"evaluate temperature: models need names of their own, got {', '.join([*names, reference.name])}")
    called = reference.name if "reference" in reference.name else f"reference {reference.name}"
    anchor = entropy_of(reference, sequences)
    rows: list[Row] = []
    entropies: dict[str, float] = {}
    for temperature in temperatures:
        say(f"{reference.name} at T = {temperature:g}")
        rows.append(_row(called, temperature, bench.at(reference, temperature), bench.at(reference, temperature, True)))
    for policy in policies:
        own = entropy_of(policy, sequences)
        for temperature in temperatures:
            say(f"{policy.name} at T = {temperature:g}")
            rivals = bench.at(reference, temperature, other_luck=True)
            row = dict(_row(policy.name, temperature, bench.at(policy, temperature), rivals))
            if policy is not policies[0]:
                first = bench.at(policies[0], temperature)
                row[f"win over {names[0]}"] = statistics.win_rate(bench.at(policy, temperature).scores, first.scores)
            if temperature >= 1:
                matched = temperature_of(own, anchor(temperature))
                found = bench.at(policy, matched)
                row["matched T"] = matched
                row["score at it"] = _mean(found.scores)
                row["win at it"] = statistics.win_rate(found.scores, rivals.scores)
            rows.append(row)
        entropies[policy.name] = own(1.0)
        colder = temperature_of(anchor, own(1.0))
        say(f"{reference.name} at T = {colder:.3f}, as sure of itself as {policy.name} at 1")
        cold = bench.at(reference, colder)
        rows.append(_row(f"{called} colder, as sure as {policy.name} at 1", colder, cold, bench.at(reference, 1.0, True)))
    facts = {**facts, "reference entropy": anchor(1.0), "entropies": entropies}
    return Result("temperature", "Score and win rate by temperature", rows, (), NOTES, facts=facts)


def draw(result: Result, figure: Any) -> None:
    """Score and win rate against temperature, both ways: as sampled, and at the temperature of equal entropy."""
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(str(row["policy"]) for row in result.rows))
    for index, name in enumerate(names):
        own = [row for row in result.rows if row["policy"] == name]
        colour, style = f"C{index}", "o-" if len(own) > 1 else "s"
        for axes, column in ((left, "score"), (right, "win")):
            axes.plot([row["T"] for row in own], [row[column] for row in own], style, color=colour, label=name)
            matched = [row for row in own if row.get("matched T") is not None]
            if matched:
                values = [row[f"{column} at it"] for row in matched]
                axes.plot([row["T"] for row in matched], values, "x--", color=colour, label=f"{name}, entropy matched")
    left.set(xlabel="T", ylabel="mean score")
    right.set(xlabel="T", ylabel="win rate against the reference at T")
    right.axhline(0.5, color="gray", linewidth=0.8)
    left.legend(frameon=False, fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)


def _row(name: str, temperature: float, mine: Sampled, rivals: Sampled) -> Row:
    zeros = [0.0] * len(mine.scores)
    score = statistics.paired_difference([mine.scores], [zeros], resamples=500)
    wins = statistics.win_shares(mine.scores, rivals.scores)
    win = statistics.wilson_interval(wins)
    controlled = statistics.length_controlled(wins, mine.lengths, rivals.lengths)
    return {
        "policy": name,
        "T": temperature,
        "score": score.estimate,
        "score low": score.low,
        "score high": score.high,
        "win": win.estimate,
        "win low": win.low,
        "win high": win.high,
        "LC win": controlled.rate,
        "length": _mean(mine.lengths),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
