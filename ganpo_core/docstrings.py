"""What a component's docstring says, in its parts, and what an objective needs, in words."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from ganpo_core.components import Objective

LABEL = re.compile(r"(Source|TRL|Departs|When): ")


@dataclass(frozen=True)
class ComponentText:
    """A docstring as the built-in components write it: a sentence, a formula, and labelled lines; empty where one is missing."""

    summary: str
    formula: str
    source: str
    trl: str
    departs: str
    """Where TRL's loss of that name differs from the paper's."""
    when: str
    """When it is the right one."""


def read_docstring(component: type) -> ComponentText:
    """The parts of a docstring; whatever is neither labelled nor indented beyond the first paragraph is left out."""
    lines = (inspect.getdoc(component) or "").splitlines()
    first_blank = lines.index("") if "" in lines else len(lines)
    found: dict[str, list[str]] = {"Source": [], "TRL": [], "Departs": [], "When": []}
    formula: list[str] = []
    label: str | None = None
    for line in lines[first_blank:]:
        if match := LABEL.match(line):
            label = match[1]
            found[label].append(line[match.end() :])
        elif not line:
            label = None
        elif line.startswith(" "):
            formula.append(line)
        elif label:
            found[label].append(line)
    parts = {name: " ".join(text) for name, text in found.items()}
    return ComponentText(
        " ".join(lines[:first_blank]),
        textwrap.dedent("\n".join(formula)),
        parts["Source"],
        parts["TRL"],
        parts["Departs"],
        parts["When"],
    )


def needs_of(objective: Objective) -> Iterator[str]:
    """What an objective asks of the models and of the data, with these options."""
    yield "a reference" if objective.needs_reference else "no reference"
    for statistic in sorted(objective.token_statistics):
        yield f"per token: {statistic}"
    for need in sorted(objective.needs):
        yield {
            "token_ids": "the response tokens",
            "preference": "the column `preference`",
            "prompt": "the prompts' own log-probabilities",
        }[need]
    for kind in dict.fromkeys(objective.batch_statistics.values()):
        yield {
            "lengths": "the step's number of tokens",
            "mismatched": "responses after other prompts (one more pass)",
            "micro_batch": "the micro-batch as a whole",
            "running_mean": "running means over the steps before",
        }[kind]
    yield "pairs, or single responses with a label" if objective.takes_unpaired else "pairs"
