"""The main job in small: make the world, train three policies from their run files, and let the oracle compare them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ganpo_core import GanpoError, train
from ganpo_lab.evaluate import Evaluation, Row, load_policy
from ganpo_lab.preferences import FILES, PreferenceRecipe, held_out, make_preferences
from ganpo_lab.records import write_records
from ganpo_lab.reference import ReferenceRecipe, make_reference
from ganpo_lab.tables import draw_curves, make_table, write_tables

RUNS = ("dpo", "ganpo", "mse")
EXAMPLES = Path(__file__).parents[2] / "examples" / "lab"
"""Beside the plugin in a checkout; elsewhere the command needs `--examples`."""
COLDER = 0.82
"""The temperature at which the reference alone was the most valid sampler of a prototype study."""


def run_demo(
    output: Path, examples: Path = EXAMPLES, seed: int = 0, steps: int | None = None, num_prompts: int = 512
) -> list[Row]:
    """Train and compare; everything is written under `output`. The reference and the pairs are reused if unchanged."""
    files = run_files(examples, RUNS)
    began, console = monotonic(), Console()
    output = output.resolve()
    reference, pairs = output / "reference", output / "preferences"
    stage = stages(console, 3 + len(RUNS))

    stage("the reference learns from an imperfect writer")
    with progress("reference", ReferenceRecipe().steps) as advance:
        trained = make_reference(ReferenceRecipe(seed=seed), reference, advance)
    console.print("  trained" if trained else "  unchanged, used again")
    stage("a noisy annotator compares pairs of its answers")
    facts = make_preferences(PreferenceRecipe(seed=seed), reference, pairs, load_policy)
    console.print(f"  {facts['pairs']:.0f} pairs; the oracle agrees with {facts['agreement']:.0%} of the labels")

    folders = {}
    for name, path in files.items():
        stage(f"training {name} from {path.name}")
        folders[name] = output / name
        clear(folders[name])
        train(path, overrides(reference, pairs, folders[name], seed, steps))

    stage("the oracle judges held-out prompts")
    anchor = load_policy(reference)
    evaluation = Evaluation(anchor, held_out(pairs), seed, num_prompts)
    policies = {name: load_policy(folder / "policy") for name, folder in folders.items()}
    rows = judged(evaluation, anchor, policies)
    for name, folder in folders.items():
        write_records(folder, name, rows, evaluation.requests, policies[name])
    show(rows, folders, output, console, began)
    return rows


def judged(evaluation: Evaluation, anchor: Any, policies: Mapping[str, Any]) -> list[Row]:
    """The reference's rows, one of it sampled colder, and each policy's."""
    rows = list(evaluation.rows("reference", anchor, is_reference=True))
    rows.append(evaluation.colder_reference(anchor, COLDER))
    for name, policy in policies.items():
        rows += evaluation.rows(name, policy)
    return rows


def show(rows: Sequence[Row], folders: Mapping[str, Path], output: Path, console: Console, began: float) -> None:
    """Print the table, and write it and the curves."""
    write_tables(rows, output)
    draw_curves(folders, output / "curves.png")
    console.print(make_table(rows))
    console.print(f"done in {(monotonic() - began) / 60:.1f} minutes", highlight=False)
    print(f"runs, table.md and table.json: {output}\ncurves: {output / 'curves.png'}")


def run_files(examples: Path, names: Sequence[str]) -> dict[str, Path]:
    """The run files by name. Raises GanpoError where one is missing."""
    files = {name: examples / f"{name}.yaml" for name in names}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise GanpoError(f"lab demo: no run file at {missing[0]}; give the folder with --examples")
    return files


def overrides(reference: Path, pairs: Path, folder: Path, seed: int, steps: int | None) -> dict[str, object]:
    """What a demo puts in place of the run file's paths."""
    chosen: dict[str, object] = {
        "model.path": str(reference),
        "data.path": str(pairs / FILES["train"]),
        "output_dir": str(folder),
        "seed": seed,
    }
    return chosen if steps is None else {**chosen, "training.max_steps": steps}


def clear(folder: Path) -> None:
    """Remove an earlier demo's run, and nothing that is not one."""
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / "run.yaml").is_file():
        raise GanpoError(f"lab demo: {folder} holds something that is not a run; choose another --output")
    shutil.rmtree(folder)


def stages(console: Console, count: int) -> Callable[[str], None]:
    """Numbers the stages as they come."""
    number = iter(range(1, count + 1))

    def stage(what: str) -> None:
        console.print(f"[{next(number)}/{count}] {what}", markup=False, highlight=False)

    return stage


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int, float], None]]:
    """A bar with the time left on a terminal, a line a hundred steps elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:

        def say(step: int, loss: float) -> None:
            if step % 100 == 0:
                print(f"  {name}: step {step}/{total}  loss {loss:.3f}", file=sys.stderr, flush=True)

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total)
        yield lambda step, loss: bar.update(task, completed=step, description=f"{name}  loss {loss:.3f}")


