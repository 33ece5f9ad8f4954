"""`ganpo evaluate temperature`: policies against their reference from cold to hot, and at equal entropy (Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ganpo_core import ConfigError, Prompt, Scorer, statistics
from ganpo_evaluation.language_model import LanguageModel
from ganpo_evaluation.matching import EntropyAt, Sequences, entropy_of, matched_at, unmatched
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.sampling import Sampling, generate

NOTES = (
    "win: against the reference's own samples at `against T`, drawn with other luck; a tie is one half. entropy: nats a token.",
    "matched: at the temperature at which the policy is as random as the reference at `against T` (mean token entropy,",
    "teacher-forced on the pairs). A policy that is merely surer of itself looks better at T >= 1 and not there. Compare also",
    "with the reference sampled colder.",
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
            scores = list(self._score(self.prompts, responses))
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
    """Every policy at every temperature, from T = 1 on at the reference's entropy too; and the reference sampled colder."""
    names = [policy.name for policy in policies]
    if len({*names, reference.name}) <= len(names):
        raise ConfigError(f"evaluate temperature: models need names of their own, got {', '.join([*names, reference.name])}")
    called = reference.name if "reference" in reference.name else f"reference {reference.name}"
    anchor = cache(entropy_of(reference, sequences))
    rows: list[Row] = []
    notes = list(NOTES)
    entropies: dict[str, float] = {}

    def sampled(name: str, model: LanguageModel, own: EntropyAt, at: float, against: float, matched: bool = False) -> Row:
        say(f"{model.name} at T = {at:.4g}" + f", as random as {reference.name} at {against:g}" * matched)
        rivals = bench.at(reference, against, other_luck=True)
        return _row(name, at, matched, against, own(at), bench.at(model, at), rivals)

    for temperature in temperatures:
        rows.append(sampled(called, reference, anchor, temperature, temperature))
    levels = [(each, matched) for each in temperatures for matched in (False, True) if each >= 1 or not matched]
    firsts: dict[tuple[float, bool], Sampled] = {}
    for policy in policies:
        own = cache(entropy_of(policy, sequences))
        for temperature, matched in levels:
            at = matched_at(own, anchor(temperature), near=temperature) if matched else temperature
            if at is None:
                why = unmatched(anchor(temperature), temperature)
                notes.append(f"{policy.name}: {why}, the reference's at {temperature:g}.")
                continue
            row = sampled(policy.name, policy, own, at, temperature, matched)
            if policy is policies[0]:
                firsts[temperature, matched] = bench.at(policy, at)
            elif (temperature, matched) in firsts:
                over = statistics.win_rate(bench.at(policy, at).scores, firsts[temperature, matched].scores)
                row = {**row, f"win over {names[0]}": over}
            rows.append(row)
        entropies[policy.name] = own(1.0)
        colder = matched_at(anchor, own(1.0))
        if colder is None:
            notes.append(f"{reference.name}: {unmatched(own(1.0), 1.0)}, which {policy.name} has at 1.")
        else:
            rows.append(sampled(f"{called} colder, as sure as {policy.name} at 1", reference, anchor, colder, 1.0))
    facts = {**facts, "reference entropy": anchor(1.0), "entropies": entropies}
    return Result("temperature", "Score and win rate by temperature", rows, (), notes, facts=facts)


def draw(result: Result, figure: Any) -> None:
    """Score and win rate, both ways: as sampled, over T, and at equal entropy, over the reference's T."""
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(str(row["policy"]) for row in result.rows))
    for index, name in enumerate(names):
        for matched, style in ((False, "o-"), (True, "x--")):
            own = [row for row in result.rows if row["policy"] == name and row["matched"] == matched]
            if not own:
                continue
            label = f"{name}, entropy matched" if matched else name
            style = "s" if len(own) == 1 and not matched else style
            for axes, column in ((left, "score"), (right, "win")):
                x = [row["against T"] if matched else row["T"] for row in own]
                axes.plot(x, [row[column] for row in own], style, color=f"C{index}", label=label)
    left.set(xlabel="T (entropy matched: the reference's)", ylabel="mean score")
    right.set(xlabel="T (entropy matched: the reference's)", ylabel="win rate against the reference")
    right.axhline(0.5, color="gray", linewidth=0.8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    for axes in (left, right):
        axes.grid(alpha=0.3)


def _row(
    name: str, temperature: float, matched: bool, against: float, entropy: float, mine: Sampled, rivals: Sampled
) -> Row:
    zeros = [0.0] * len(mine.scores)
    score = statistics.paired_difference([mine.scores], [zeros], resamples=500)
    wins = statistics.win_shares(mine.scores, rivals.scores)
    win = statistics.wilson_interval(wins)
    controlled = statistics.length_controlled(wins, mine.lengths, rivals.lengths)
    return {
        "policy": name,
        "T": temperature,
        "matched": matched,
        "against T": against,
        "entropy": entropy,
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
