"""Which metrics become which charts, and what a reader should see in each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ganpo_report.drawing import Curve, Drawing, draw
from ganpo_report.runs import RunFolder, Series
from ganpo_report.tables import AGAINST, BUCKET, MATCHED, TEMPERATURE, Table, number


@dataclass(frozen=True)
class Chart:
    """One chart of training metrics; drawn where a run logged any of its keys."""

    title: str
    caption: str
    y_label: str
    keys: Mapping[str, str]
    """Metric -> its label. `{}` stands for an adversary's prefix."""
    zero: bool = False
    log: bool = False
    per_token: bool = False
    """Divided by the length of the responses of the same interval."""


TRAINING = (
    Chart(
        "Reward margin",
        "Chosen minus rejected implicit reward. It should rise, on held-out pairs too.",
        "reward",
        {"rewards/margins": "training pairs", "eval_rewards/margins": "held-out pairs"},
        zero=True,
    ),
    Chart(
        "Reward accuracy",
        "Share of pairs with a margin above 0. Training near 1 with held-out pairs far below is memorization.",
        "share of pairs",
        {"rewards/accuracies": "training pairs", "eval_rewards/accuracies": "held-out pairs"},
    ),
    Chart(
        "Rewards",
        "Both sides of the margin. It is usual that both fall, the rejected one faster.",
        "reward",
        {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
        zero=True,
    ),
    Chart(
        "Log-probability against the reference",
        "How much likelier each response became, a token. Below -0.5 samples change in kind.",
        "nats a token",
        {"shifts/chosen": "chosen", "shifts/rejected": "rejected"},
        zero=True,
        per_token=True,
    ),
    Chart("Objective's loss", "Without the adversary's part.", "nats", {"objective_loss": "training pairs"}),
    Chart(
        "Gradient norm",
        "Of the policy, before the clip. A spike is a batch to look at; a steady rise, a learning rate too high.",
        "norm",
        {"grad_norm": "policy"},
        log=True,
    ),
)
GROUPS = {"anchor": "reference (anchor)", "policy": "policy", "cross": "other side (cross)"}
CRITICS = (
    *(
        Chart(
            f"Scores of the {side} critic",
            "Means by group. The critic is trained to order anchor above policy above cross; lines that meet are groups "
            "it cannot tell apart.",
            "logit",
            {f"{{}}/{side}/score_{group}": label for group, label in GROUPS.items()},
        )
        for side in ("chosen", "rejected")
    ),
    Chart(
        "Critic's gap",
        "Anchor's score minus the policy's. Beyond 5 logits a critic has nothing left to teach; below -3 the policy has "
        "overtaken it.",
        "logits",
        {"{}/chosen/gap": "chosen critic", "{}/rejected/gap": "rejected critic"},
        zero=True,
    ),
    Chart(
        "Critic's accuracy",
        "Share of rows in which the anchor outscores the policy. One half is chance.",
        "share of rows",
        {"{}/chosen/accuracy": "chosen critic", "{}/rejected/accuracy": "rejected critic"},
    ),
    Chart(
        "Critic's loss",
        "What each critic minimizes. Near 0 it has won, and its push no longer depends on the distance.",
        "loss",
        {"{}/chosen/critic_loss": "chosen critic", "{}/rejected/critic_loss": "rejected critic"},
    ),
    Chart(
        "Overshoot",
        "The policy's score above the anchor's baseline. Above 3 it is pushed past the reference.",
        "logits",
        {"{}/chosen/overshoot": "chosen critic", "{}/rejected/overshoot": "rejected critic"},
        zero=True,
    ),
)
DIVERGENCES = (
    Chart(
        "Divergence estimate",
        "Between policy and reference, as the critics see it.",
        "estimate",
        {"{}/chosen/estimate": "chosen", "{}/rejected/estimate": "rejected"},
        zero=True,
    ),
    Chart(
        "Distance of the latents",
        "Between policy and reference, computed directly.",
        "distance",
        {"{}/chosen/distance": "chosen", "{}/rejected/distance": "rejected"},
    ),
    Chart("Penalty", "What the policy pays, before its weight.", "penalty", {"{}/penalty": "penalty"}),
    Chart(
        "Force beside the objective",
        "Norm of the penalty's gradient at the latents, weight included, over the objective's. At 1 it leads the training.",
        "ratio",
        {"{}/gradient_ratio": "ratio"},
        log=True,
    ),
)


def training_charts(runs: Sequence[RunFolder]) -> list[Drawing]:
    """Margins, rewards, likelihoods, loss and gradients."""
    return [drawn for chart in TRAINING if (drawn := _draw(chart, runs, "")) is not None]


def adversary_charts(charts: Sequence[Chart], runs: Sequence[RunFolder]) -> list[Drawing]:
    """The same charts for each adversary of the runs; its name is in the title where it has one."""
    prefixes = dict.fromkeys(prefix for run in runs for prefix in run.adversaries)
    found = (_draw(chart, runs, prefix) for prefix in prefixes for chart in charts)
    return [drawn for drawn in found if drawn is not None]


def _draw(chart: Chart, runs: Sequence[RunFolder], prefix: str) -> Drawing | None:
    curves = list(_curves(chart, runs, prefix))
    if not curves:
        return None
    named = prefix.partition("/")[2]
    title = f"{chart.title}: {named}" if named else chart.title
    return draw(title, chart.caption, curves, y_label=chart.y_label, zero=chart.zero, log=chart.log)


def _curves(chart: Chart, runs: Sequence[RunFolder], prefix: str) -> Iterator[Curve]:
    found = {
        (index, place): series
        for index, run in enumerate(runs)
        for place, key in enumerate(chart.keys)
        if (series := _series(chart, run, key.format(prefix)))
    }
    labels = list(chart.keys.values())
    alone = len({place for _, place in found}) == 1
    for (index, place), series in found.items():
        marks = list(chart.keys)[place].startswith("eval_")
        colour, dash = (place, 0) if len(runs) == 1 else (index, place)
        group = "" if alone else labels[place]
        yield Curve(runs[index].name, series.steps, series.values, group, colour, dash, marks)


def _series(chart: Chart, run: RunFolder, key: str) -> Series:
    series = run.series(key)
    return per_token(run, series, key) if chart.per_token else series


def per_token(run: RunFolder, series: Series, key: str) -> Series:
    """A series of sums over responses, divided by their mean lengths; empty where lengths were not logged."""
    lengths = run.series(f"lengths/{key.partition('/')[2]}")
    if lengths.steps != series.steps:
        return Series((), ())
    return Series(series.steps, tuple(value / length for value, length in zip(series.values, lengths.values, strict=True)))


# -- evaluations ---------------------------------------------------------------------------------------------------------

MEASURES = ("win", "lc", "valid", "strict", "loose", "reward", "accuracy", "score", "prompt", "instruction")
"""Columns that are drawn, by the beginning of their names; where there are none, the first ones that hold numbers."""
MOST_MEASURES = 4


def table_charts(table: Table, runs: Sequence[str] = ()) -> list[Drawing]:
    """A table over temperatures or over buckets of length, drawn; nothing of any other.

    What has the name of a run has its colour, too.
    """
    if (bucket := table.column(*BUCKET)) is not None:
        return list(_bucket_charts(table, bucket, runs))
    if (temperature := table.column(*TEMPERATURE)) is not None and temperature in table.numeric:
        return list(_temperature_charts(table, temperature, runs))
    return []


def _temperature_charts(table: Table, temperature: str, runs: Sequence[str]) -> Iterator[Drawing]:
    matched, against = table.column(MATCHED), table.column(AGAINST)
    named = table.by_name(temperature)
    colours = _colours(named, runs)
    for measure in _measures(table, temperature):
        curves: list[Curve] = []
        for name, own in named.items():
            for is_matched in (False, True):
                rows = [row for row in own if bool(matched and row.get(matched)) == is_matched]
                place = against if is_matched and against else temperature
                points = sorted((number(row.get(place)), number(row.get(measure))) for row in rows)
                points = [point for point in points if all(map(math.isfinite, point))]
                if points:
                    x, y = zip(*points, strict=True)
                    group = "at the reference's entropy" if is_matched else ""
                    curves.append(Curve(name, x, y, group, colours[name], marks=True, joined=not is_matched))
        if any(len(curve.x) > 1 for curve in curves):
            caption = "Each point is one temperature."
            if any(not curve.joined for curve in curves):
                caption += (
                    " Diamonds: a policy as random as the reference is at the temperature above which they stand."
                    if against
                    else " Diamonds: the temperature at which a policy is as random as the reference is at 1."
                )
            yield draw(f"{table.title}: {measure}", caption, curves, x_label="temperature", y_label=measure)


def _bucket_charts(table: Table, bucket: str, runs: Sequence[str]) -> Iterator[Drawing]:
    named = table.by_name(bucket)
    colours = _colours(named, runs)
    buckets = list(dict.fromkeys(str(row.get(bucket)) for row in table.rows))
    for measure in _measures(table, bucket)[:1]:
        low, high = (table.column(f"{measure}_{end}".lower(), f"{measure} {end}".lower(), end) for end in ("low", "high"))
        curves = []
        for name, rows in named.items():
            ends = [[number(row.get(end)) for row in rows] if end else [] for end in (low, high)]
            x = [float(buckets.index(str(row.get(bucket)))) for row in rows]
            y = [number(row.get(measure)) for row in rows]
            curves.append(Curve(name, x, y, "", colours[name], 0, True, ends[0], ends[1]))
        caption = "By the length of the response itself. A slope is length bought, or length paid for."
        yield draw(f"{table.title}: {measure}", caption, curves, x_label=bucket, y_label=measure, ticks=buckets)


def _colours(names: Iterable[str], runs: Sequence[str]) -> dict[str, int]:
    """Runs have theirs; whoever else is measured takes those that are left."""
    others = [name for name in names if name not in runs]
    return {name: runs.index(name) if name in runs else len(runs) + others.index(name) for name in names}


def _measures(table: Table, axis: str) -> list[str]:
    ends = ("low", "high", "se", "stderr")
    values = [column for column in table.numeric if column != axis and not column.lower().endswith(ends)]
    return ([column for column in values if column.lower().startswith(MEASURES)] or values)[:MOST_MEASURES]
