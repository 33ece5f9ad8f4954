"""The page: sections in the order in which a person asks, each of them with what was found or with what is missing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ganpo_report import charts, facts
from ganpo_report.comparisons import comparisons, evaluated, shared
from ganpo_report.drawing import COLOURS
from ganpo_report.findings import findings
from ganpo_report.runs import RunFolder
from ganpo_report.tables import BUCKET, TEMPERATURE, Outputs, Table, find, merge

TEMPLATES = Path(__file__).parent / "templates"
MOST_SHOWN = 4000
"""Characters of a prompt or an answer."""
DASH_ARRAYS = ("", "7 3", "2 3", "7 3 2 3")
"""As drawing.DASHES, for legends."""


@dataclass(frozen=True)
class Part:
    """One piece of a section; `items` are what the template draws for its kind."""

    kind: Literal["findings", "table", "charts", "samples", "list"]
    items: object
    title: str = ""
    folded: bool = False
    wide: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading, a sentence, and what follows."""

    key: str
    title: str
    lead: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Sample:
    """One prompt and what each generator answered."""

    prompt: str
    answers: tuple[tuple[str, str], ...]


def make_page(
    runs: Sequence[RunFolder], num_samples: int = 6, evaluations: Sequence[Path] = (), now: datetime | None = None
) -> str:
    """One self-contained HTML page about one or several runs; `evaluations` are folders of tables beside theirs."""
    names = [run.name for run in runs]
    found = [find(run.folder, run.name) for run in runs]
    found += [find(folder, folder.name, ("*.json",)) for folder in evaluations]
    tables = merge([table for each in found for table in each.tables])
    by_kind: dict[str, list[Table]] = {"temperature": [], "length": [], "other": []}
    for table in tables:
        by_kind[_kind(table)].append(table)
    sections = [
        _reading(runs, tables),
        _what_ran(runs),
        _training(runs),
        _critics(runs),
        _divergence(runs),
        _evaluation("temperature", "Quality against temperature", TEMPERATURE_LEAD, by_kind["temperature"], names),
        _evaluation("lengths", "Win rate by length", LENGTH_LEAD, by_kind["length"], names),
    ]
    if by_kind["other"]:
        sections.append(_evaluation("evaluations", "Other evaluations", "", by_kind["other"], names))
    sections.append(_samples([outputs for each in found for outputs in each.outputs], num_samples))
    if refused := [reason for each in found for reason in each.refused]:
        sections.append(
            Section("refused", "Files not shown", "These lie where evaluations are looked for.", (Part("list", refused),))
        )
    written = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["code"] = _code
    return environment.get_template("report.html").render(
        title=" · ".join(names),
        lead=_lead(runs),
        runs=runs,
        sections=sections,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        palette=len(COLOURS),
        dashes=DASH_ARRAYS,
        footer=f"Written by ganpo report on {written} from {', '.join(str(run.folder) for run in runs)}.",
    )


def _code(text: str) -> Markup:
    """What stands between backticks, set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


# -- sections ------------------------------------------------------------------------------------------------------------

TEMPERATURE_LEAD = (
    "A trained policy is surer of itself, which looks like quality at T = 1. Compare rows at matched token entropy, and "
    "against the reference sampled colder."
)
LENGTH_LEAD = "Win rate by the length of the response itself: where it rises with length, length is a part of the win."
MISSING = {
    "temperature": "Not measured: no table over temperatures in evaluation/ of the run's folder. `ganpo evaluate temperature` "
    "with `--output RUN/evaluation` writes one.",
    "lengths": "Not measured: no table over lengths in evaluation/ of the run's folder. `ganpo evaluate length-buckets` "
    "with `--output RUN/evaluation` writes one.",
}


def _lead(runs: Sequence[RunFolder]) -> str:
    if len(runs) > 1:
        return f"{len(runs)} runs side by side. Each has its colour in every chart."
    run = runs[0]
    beside = f", with {' and '.join(run.divergences)} beside it" if run.divergences else ""
    return f"Objective {run.settings.get('objective.use')}{beside}; {run.last_step} steps."


def _reading(runs: Sequence[RunFolder], tables: Sequence[Table]) -> Section:
    parts = []
    own = [findings(run) for run in runs]
    common = shared(own)
    if across := [*comparisons(runs), *common, *evaluated(tables)]:
        parts.append(Part("findings", across, "Across the runs" if len(runs) > 1 else "Evaluations"))
    for run, found in zip(runs, own, strict=True):
        if rest := [finding for finding in found if finding not in common]:
            parts.append(Part("findings", rest, run.name if len(runs) > 1 or across else ""))
    grid = facts.outcome(runs)
    notes = ("Means over the last tenth of the logged lines; held-out figures are the last ones.",)
    if grid.rows:
        parts.append(Part("table", grid, "Where it ended", notes=notes))
    return Section("reading", "What to look at", "Sentences are made by fixed rules from the logged numbers.", tuple(parts))


def _what_ran(runs: Sequence[RunFolder]) -> Section:
    parts = [Part("table", facts.provenance(runs), wide=True, notes=_without_card(runs))]
    if len(runs) > 1:
        keys = facts.differing_keys(runs)
        main = facts.telling_keys(runs, keys)
        if keys:
            parts.append(Part("table", facts.configuration(runs, main or keys), "Settings that differ", wide=True))
            if main and len(main) < len(keys):
                title = f"All {len(keys)} settings that differ, options of sections that not every run has among them"
                parts.append(Part("table", facts.configuration(runs, keys), title, folded=True, wide=True))
        else:
            parts.append(Part("list", ["The run files are the same, output_dir aside."], "Settings that differ"))
    else:
        parts.append(Part("table", facts.configuration(runs, facts.essential_keys(runs[0])), "Settings", wide=True))
    every = facts.configuration(runs, facts.all_keys(runs))
    parts.append(Part("table", every, "The whole resolved run file", folded=True, wide=True))
    if rows := [line for run in runs for line in (run.card.get("data") or {}).get("report", [])]:
        parts.append(Part("list", list(dict.fromkeys(rows)), "What became of the rows"))
    if commands := [f"{run.name}: `{' '.join(run.card['command'])}`" for run in runs if run.card.get("command")]:
        parts.append(Part("list", commands, "Commands", folded=True))
    lead = (
        "Hashes are the first twelve digits of sha256; equal digits, equal bytes. “+ changes”: files differed from the commit. "
        "Tokens of a pair are the means of prompt + chosen + rejected."
    )
    return Section("what-ran", "What ran", lead, tuple(parts))


def _without_card(runs: Sequence[RunFolder]) -> tuple[str, ...]:
    old = [run.name for run in runs if not run.card]
    if not old:
        return ()
    return (f"{', '.join(old)}: no card.json, so date, command, code and hashes are unknown. An earlier version wrote it.",)


def _training(runs: Sequence[RunFolder]) -> Section:
    drawn = charts.training_charts(runs)
    if not drawn:
        return Section("training", "Margins and rewards", "Not measured: metrics.jsonl holds no line yet.")
    held_out = any(run.held_out for run in runs)
    lead = "" if held_out else "On training pairs alone: no held-out pairs were given (data.eval_path, training.eval_steps)."
    return Section("training", "Margins and rewards", lead, (Part("charts", drawn),))


def _critics(runs: Sequence[RunFolder]) -> Section:
    drawn = charts.adversary_charts(charts.CRITICS, runs)
    if drawn:
        lead = "Two critics: one reads chosen responses, one rejected ones."
        return Section("critics", "Critic health", lead, (Part("charts", drawn),))
    lead = "No critic: " + ("none of these runs" if len(runs) > 1 else "this run") + " has a game with critics."
    return Section("critics", "Critic health", lead if any(run.training for run in runs) else "No metrics yet.")


def _divergence(runs: Sequence[RunFolder]) -> Section:
    drawn = charts.adversary_charts(charts.DIVERGENCES, runs)
    if drawn:
        lead = "How far the policy's latents are from the reference's, and how hard they are held."
        return Section("divergence", "Divergence", lead, (Part("charts", drawn),))
    return Section("divergence", "Divergence", "Not measured: plain preference optimization, without a latent regularizer.")


def _evaluation(key: str, title: str, lead: str, tables: Sequence[Table], runs: Sequence[str]) -> Section:
    if not tables:
        return Section(key, title, MISSING[key])
    parts: list[Part] = []
    for table in tables:
        if drawn := charts.table_charts(table, runs):
            parts.append(Part("charts", drawn))
        notes = table.notes
        if table.paper:
            notes = (*notes, "Rows in italics are the paper's (arXiv 2601.22083), on its own models and judges.")
        parts.append(Part("table", _grid(table), table.title, notes=notes))
    return Section(key, title, lead, tuple(parts))


def _grid(table: Table) -> facts.Grid:
    rows = [facts.Row(tuple(facts.show(row.get(column)) for column in table.columns)) for row in table.rows]
    rows += [
        replace(facts.Row(tuple(facts.show(row.get(column)) for column in table.columns)), paper=True) for row in table.paper
    ]
    numbers = frozenset(index for index, column in enumerate(table.columns) if column in table.numeric)
    return facts.Grid(table.columns, tuple(rows), numbers)


def _samples(outputs: Sequence[Outputs], most: int) -> Section:
    if not outputs:
        lead = "None: no outputs in AlpacaEval's format in the run's folder. `ganpo generate` writes them."
        return Section("samples", "Samples", lead)
    shared = [prompt for prompt in outputs[0].responses if all(prompt in each.responses for each in outputs)]
    prompts = shared or list(outputs[0].responses)

    def answered(prompt: str) -> tuple[tuple[str, str], ...]:
        return tuple((each.title, _shortened(each.responses[prompt])) for each in outputs if prompt in each.responses)

    samples = [Sample(_shortened(prompt), answered(prompt)) for prompt in prompts[:most]]
    lead = f"The first {len(samples)} of {len(prompts)} prompts, not chosen by anyone."
    if not shared and len(outputs) > 1:
        lead += " The runs answered different prompts, so each is shown alone."
    return Section("samples", "Samples", lead, (Part("samples", samples),))


def _shortened(text: str) -> str:
    """What a person reads of a sample; the rest is in its file."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]} […] ({len(text) - MOST_SHOWN:,} more characters)"


def _kind(table: Table) -> str:
    if table.column(*BUCKET) is not None:
        return "length"
    temperature = table.column(*TEMPERATURE)
    return "temperature" if temperature is not None and temperature in table.numeric else "other"

