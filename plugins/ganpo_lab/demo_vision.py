"""The demo of a world that is seen: the same comparison, with the requested keys drawn in a picture."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

from rich.console import Console

from ganpo_core import train
from ganpo_lab.demo import clear, judged, overrides, progress, run_files, show, stages
from ganpo_lab.evaluate import Evaluation, Row, Sight
from ganpo_lab.picture import see
from ganpo_lab.preferences import FILES, PreferenceRecipe
from ganpo_lab.seeing import (
    FIRST,
    SeeingRecipe,
    load_seeing,
    look,
    make_seeing_reference,
    make_seen_preferences,
    seen_held_out,
    swapped,
)

RUNS = ("dpo", "ganpo")
EXAMPLES = Path(__file__).parents[2] / "examples" / "lab_vision"
"""Beside the plugin in a checkout; elsewhere the command needs `--examples`."""
SIGHT = Sight(lambda requests: see(requests, FIRST["test"]), look, swapped)


def run_vision_demo(
    output: Path, examples: Path = EXAMPLES, seed: int = 0, steps: int | None = None, num_prompts: int = 384
) -> list[Row]:
    """Train and compare; everything is written under `output`. The reference and the pairs are reused if unchanged."""
    files = run_files(examples, RUNS)
    began, console = monotonic(), Console()
    output = output.resolve()
    reference, pairs = output / "reference", output / "preferences"
    stage = stages(console, 3 + len(RUNS))

    stage("the reference learns to read pictures from an imperfect writer")
    recipe = SeeingRecipe(seed=seed)
    with progress("reference", recipe.steps) as advance:
        trained = make_seeing_reference(recipe, reference, advance)
    console.print("  trained" if trained else "  unchanged, used again")
    stage("a noisy annotator compares pairs of its answers")
    facts = make_seen_preferences(PreferenceRecipe(seed=seed), reference, pairs, load_seeing)
    console.print(f"  {facts['pairs']:.0f} pairs; the oracle agrees with {facts['agreement']:.0%} of the labels")

    folders = {}
    for name, path in files.items():
        stage(f"training {name} from {path.name}")
        folders[name] = output / name
        clear(folders[name])
        train(path, {**overrides(reference, pairs, folders[name], seed, steps), "data.path": str(pairs / FILES["train"])})

    stage("the oracle judges held-out pictures")
    anchor = load_seeing(reference)
    evaluation = Evaluation(anchor, seen_held_out(pairs), seed, num_prompts, SIGHT)
    rows = judged(evaluation, anchor, {name: load_seeing(folder / "policy") for name, folder in folders.items()})
    show(rows, folders, output, console, began)
    return rows
