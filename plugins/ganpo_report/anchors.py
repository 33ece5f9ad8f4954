"""The paper's Figure 2: paraphrases are far in tokens and near in latents; near-strings are the other way round.

Shapes: S tokens of a text, H latent width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from ganpo_core import DataError, GanpoError, first_line
from ganpo_report.drawing import COLOURS, pyplot_figure
from ganpo_report.facts import as_text

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = Path(__file__).parents[2] / "examples" / "paper" / "anchors.jsonl"
"""Beside the plugin in a checkout; elsewhere the command needs `--file`."""
KINDS = {"paraphrases": "paraphrase", "near_strings": "near-string"}
PAPER = (
    "the paper's Figure 2 (arXiv 2601.22083): paraphrases of “Hi there.” vary much in tokens and stay close in latent space, "
    "near-strings change few tokens and lie farther away; given as a picture, without values"
)
Pool = Literal["mean", "last"]


@dataclass(frozen=True)
class Anchor:
    """A text, others that mean the same, and others that look the same."""

    anchor: str
    paraphrases: tuple[str, ...]
    near_strings: tuple[str, ...]


@dataclass(frozen=True)
class Distance:
    """From an anchor to one other text."""

    anchor: str
    text: str
    kind: str
    edits: int
    """Tokens to insert, delete or exchange."""
    relative_edits: float
    """Over the tokens of the longer text."""
    cosine: float
    """1 minus the cosine of the pooled states."""
    l2: float


def read_anchors(path: Path) -> tuple[Anchor, ...]:
    """One anchor a line. Raises DataError, with the line, for what is none."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give one with --file")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("anchor"), str):
            raise DataError(f'{path}, line {number}: expected {{"anchor": "…", "paraphrases": […], "near_strings": […]}}')
        texts = {}
        for kind in KINDS:
            texts[kind] = tuple(row.get(kind, ()))
            if not texts[kind] or not all(isinstance(text, str) and text for text in texts[kind]):
                raise DataError(f"{path}, line {number}: `{kind}` must be a list of one or more texts")
        found.append(Anchor(row["anchor"], **texts))
    if not found:
        raise DataError(f"{path}: no anchors")
    return tuple(found)


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Levenshtein's: insertions, deletions and exchanges of single tokens."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, start=1):
        previous, row = row, [i]
        for j, theirs in enumerate(other, start=1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (mine != theirs)))
    return row[-1]


def measure(model_path: str, anchors: Sequence[Anchor], layer: int = -1, pool: Pool = "mean") -> dict[str, Any]:
    """Distances of every text to its anchor, and what they come to. Raises GanpoError for a model that cannot be read."""
    import torch

    tokenizer, model = _load(model_path)
    depth = model.config.get_text_config().num_hidden_layers
    if not -depth - 1 <= layer <= depth:
        raise GanpoError(f"--layer {layer}: the model has {depth} layers; give 0 (embeddings) to {depth}, or from the end")

    @torch.no_grad()
    def embed(text: str) -> tuple[list[int], torch.Tensor]:
        ids = tokenizer(text)["input_ids"]
        if not ids:
            raise DataError(f"'{text}' has no tokens")
        states_SH = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double()
        own = [place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids] or [len(ids) - 1]
        return [ids[place] for place in own], states_SH[own[-1]] if pool == "last" else states_SH[own].mean(0)

    def distances() -> Iterator[Distance]:
        for anchor in anchors:
            ids, state_H = embed(anchor.anchor)
            for field, kind in KINDS.items():
                for text in getattr(anchor, field):
                    other_ids, other_H = embed(text)
                    edits = edit_distance(ids, other_ids)
                    cosine = 1 - torch.cosine_similarity(state_H, other_H, dim=0).item()
                    away = (state_H - other_H).norm().item()
                    relative = edits / max(len(ids), len(other_ids))
                    yield Distance(anchor.anchor, text, kind, edits, relative, cosine, away)

    rows = list(distances())
    return {
        "title": "Distance to an anchor, in tokens and in latents",
        "model": model_path,
        "layer": layer,
        "pool": pool,
        "summary": summarize(rows),
        "rows": [asdict(row) for row in rows],
        "paper": PAPER,
    }


def summarize(rows: Sequence[Distance]) -> dict[str, Any]:
    """Means by kind, and how often a near-string is farther than a paraphrase of the same anchor (a tie counts half)."""
    measures = ("edits", "relative_edits", "cosine", "l2")
    means = {
        kind: {name: fmean(getattr(row, name) for row in rows if row.kind == kind) for name in measures}
        for kind in KINDS.values()
    }
    pairs = [
        (near, paraphrase)
        for near in rows
        for paraphrase in rows
        if near.kind == "near-string" and paraphrase.kind == "paraphrase" and near.anchor == paraphrase.anchor
    ]
    farther = {
        name: fmean((getattr(near, name) > getattr(other, name)) + 0.5 * (getattr(near, name) == getattr(other, name))
                    for near, other in pairs)
        for name in measures
    }  # fmt: skip
    return {"means": means, "near_string_is_farther": farther}


def tables(found: dict[str, Any]) -> list[Table]:
    """For the terminal: every text, and what it comes to."""
    from rich import box
    from rich.table import Table

    texts = Table(title=f"{found['title']}: {found['model']}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    texts.add_column("text")
    texts.add_column("kind", no_wrap=True)
    for name in ("edits", "cosine", "L2"):
        texts.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in found["rows"]:
        if row["anchor"] != last:
            texts.add_row(row["anchor"], "anchor", "0", "0", "0", style="bold")
            last = row["anchor"]
        texts.add_row(row["text"], row["kind"], str(row["edits"]), f"{row['cosine']:.4f}", f"{row['l2']:.3f}")
    sums = Table(title="Means", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    sums.caption, sums.caption_justify = f"Beside it: {PAPER}.", "left"
    sums.add_column("", no_wrap=True)
    for name in ("edits", "relative", "cosine", "L2"):
        sums.add_column(name, justify="right", no_wrap=True)
    for kind, means in found["summary"]["means"].items():
        sums.add_row(kind, *(f"{value:.3f}" for value in means.values()))
    sums.add_row("near-string is farther", *(f"{share:.0%}" for share in found["summary"]["near_string_is_farther"].values()))
    return [texts, sums]


def write(found: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """`anchor_distance.json` and `anchor_distance.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    written, drawn = folder / "anchor_distance.json", folder / "anchor_distance.png"
    written.write_text(as_text(found), encoding="utf-8")
    figure, panels = pyplot_figure(2)
    labels = {"cosine": "1 - cosine of pooled states", "l2": "L2 of pooled states"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        for colour, (kind, mark) in zip(COLOURS, (("paraphrase", "o"), ("near-string", "D")), strict=False):
            rows = [row for row in found["rows"] if row["kind"] == kind]
            x, y = [row["edits"] for row in rows], [row[name] for row in rows]
            axes.scatter(x, y, color=colour, marker=mark, alpha=0.8, linewidths=0, label=kind)
        axes.set(xlabel="token edit distance to the anchor", ylabel=label)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
    panels[0].legend(frameon=False)
    figure.suptitle("Tokens against latents (compare the paper's Figure 2)", fontsize=11)
    figure.savefig(drawn, dpi=150)
    return written, drawn


def _load(path: str) -> tuple[Any, Any]:
    """Tokenizer and model of a folder, of a hub name, or of a run's trained policy."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    trained = Path(path) / "policy"
    place = str(trained) if trained.is_dir() else path
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        return tokenizer, AutoModelForCausalLM.from_pretrained(place, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise GanpoError(f"'{path}' is neither a model nor a run: {first_line(error)}") from error
