"""`ganpo evaluate pairs`: how often a judge prefers the chosen response of labelled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganpo_core import DataError, Judge, Prompt, statistics
from ganpo_core.data.flaws import RowError
from ganpo_core.data.formats import TextPair, parse_row
from ganpo_evaluation.asking import asked
from ganpo_evaluation.results import Result, Row
from ganpo_evaluation.texts import read_rows

NAMES = {
    "reward_model": "reward model", "critic": "discriminator", "implicit_reward": "the policy's implicit reward",
}


def read_pairs(path: Path) -> list[tuple[Prompt, str, str, str]]:
    """(prompt, chosen, rejected, source) of each row, in any format that training reads."""
    found: list[tuple[Prompt, str, str, str]] = []
    for index, row in enumerate(read_rows(path)):
        try:
            pair = parse_row(row)
        except RowError as error:
            raise DataError(f"{path}: row {index}: {error}") from error
        if pair.label is not None:
            raise DataError(f"{path}: row {index} is a single response; accuracy needs pairs")
        source = str(row.get("category") or row.get("source") or "all")
        if isinstance(pair, TextPair):
            found.append((pair.prompt, pair.chosen, pair.rejected, source))
        else:
            chosen, rejected = (str(side[-1]["content"]) for side in (pair.chosen, pair.rejected))
            found.append((pair.prompt, chosen, rejected, source))
    return found


def accuracy(judge: Judge, name: str, path: Path, limit: int | None) -> Result:
    """Accuracy with Wilson's interval, over all pairs and by source; a tie is one half."""
    pairs = read_pairs(path)[:limit]
    prompts = [prompt for prompt, _, _, _ in pairs]
    score = asked(judge)
    chosen = score(prompts, [text for _, text, _, _ in pairs])
    rejected = score(prompts, [text for _, _, text, _ in pairs])
    right = statistics.win_shares(chosen, rejected)
    sources = list(dict.fromkeys(source for _, _, _, source in pairs))
    rows = [_row("all", right)]
    if len(sources) > 1:
        rows += [_row(own, right[[place for place, pair in enumerate(pairs) if pair[3] == own]]) for own in sources]
    longer = statistics.win_shares([float(len(pair[1])) for pair in pairs], [float(len(pair[2])) for pair in pairs])
    notes = [f"A judge that always takes the longer response is right on {longer.mean():.1%}."]
    facts = {"data": str(path), "judge": name, "options": repr(judge)}
    return Result("pairs", f"Accuracy on labelled pairs: {NAMES.get(name, name)}", rows, (), notes, facts=facts)


def _row(source: str, right: Any) -> Row:
    interval = statistics.wilson_interval(right)
    row: Row = {
        "pairs": source, "accuracy": interval.estimate, "low": interval.low, "high": interval.high, "count": len(right),
        "ties": int((right == 0.5).sum()),
    }
    return row


def draw(result: Result, figure: Any) -> None:
    """A bar for each source, with intervals."""
    axes = figure.subplots()
    rows: Sequence[Row] = result.rows
    heights = [float(row["accuracy"]) for row in rows]  # type: ignore[arg-type]
    below = [float(row["accuracy"]) - float(row["low"]) for row in rows]  # type: ignore[arg-type]
    above = [float(row["high"]) - float(row["accuracy"]) for row in rows]  # type: ignore[arg-type]
    axes.bar([str(row["pairs"]) for row in rows], heights, yerr=(below, above), capsize=3)
    axes.axhline(0.5, color="black", linewidth=0.8)
    axes.set(ylabel="accuracy", ylim=(0, 1), title=result.title)
    axes.grid(axis="y", alpha=0.3)
