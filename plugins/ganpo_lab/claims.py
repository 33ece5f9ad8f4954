"""The queue behind `ganpo lab claims`: one small JSON file a row and seed, made once, resumed from."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any

from ganpo_core import GanpoError, train
from ganpo_lab.agreement import compare
from ganpo_lab.configurations import WORLD, Job
from ganpo_lab.evaluate import load_policy
from ganpo_lab.held_out import HeldOutSequences
from ganpo_lab.measure import World
from ganpo_lab.preferences import FILES, PreferenceRecipe, held_out, make_preferences
from ganpo_lab.reference import ReferenceRecipe, make_reference
from ganpo_lab.signals import compare_signals, load_critic, make_reward_model

KEPT = ("loss", "rewards/margins", "rewards/accuracies", "adversary/penalty", "adversary/gradient_ratio")
"""Of each line of a run's metrics."""
SIDES = ("gap", "accuracy", "overshoot")
"""And of the chosen responses' critic."""


@dataclass(frozen=True)
class Settings:
    """Size of every world, beside what rows and protocols say."""

    reference: ReferenceRecipe = field(default_factory=ReferenceRecipe)
    preferences: PreferenceRecipe = field(default_factory=PreferenceRecipe)
    num_prompts: int = 512
    reward_model_steps: int = 300

    def of(self, job: Job) -> Settings:
        """A world of its own: reference, pairs and prompts."""
        changed = {part: {**job.world.get(part, {}), "seed": job.seed} for part in WORLD}
        return replace(
            self,
            reference=replace(self.reference, **changed["reference"]),
            preferences=replace(self.preferences, **changed["preferences"]),
        )

    def identity(self, job: Job) -> dict[str, Any]:
        """What a result was made from; a saved one that was made from something else is made again."""
        here = self.of(job)
        return {
            "row": job.configuration.name,
            "seed": job.seed,
            "split": job.split,
            "run": job.configuration.plain_run,
            "signals": job.configuration.signals,
            "reference": asdict(here.reference),
            "preferences": asdict(here.preferences),
            "num_prompts": here.num_prompts,
            **({"match_on_own": True} if job.match_on_own else {}),
        }


def run_queue(queue: Iterable[Job], results: Path, cache: Path, settings: Settings) -> int:
    """Make what is missing, in order; returns how many were made."""
    queue, made = list(queue), 0
    for index, job in enumerate(queue):
        path = results / job.file
        if read_result(path, settings.identity(job)) is not None:
            continue
        say(f"[{index + 1}/{len(queue)}] {job.configuration.name}, seed {job.seed}, {job.split} prompts")
        write_result(path, run_job(job, cache, settings))
        made += 1
    return made


def check_again(queue: Iterable[Job], results: Path, scratch: Path, settings: Settings) -> bool:
    """Make rows from nothing in `scratch`, worlds included, and say how they compare; True if all numbers agree.

    Raises GanpoError where nothing was committed to compare with.
    """
    agrees = True
    for job in queue:
        committed = read_result(results / job.file, settings.identity(job))
        if committed is None:
            raise GanpoError(f"lab claims: no result to compare with at {results / job.file}; make it without --fresh")
        say(f"{job.configuration.name}, seed {job.seed}, {job.split} prompts: from scratch in {scratch}")
        found = compare(committed, run_job(job, scratch, settings))
        for line in found:
            print(line)
        agrees &= all(line.holds for line in found)
    return agrees


def run_job(job: Job, cache: Path, settings: Settings) -> dict[str, Any]:
    """Train one row in one world and measure it."""
    began = process_time()
    here = settings.of(job)
    folder = cache / f"seed-{job.seed}"
    reference_folder, pairs = folder / "reference", folder / "preferences"
    make_reference(here.reference, reference_folder, lambda step, loss: None)
    facts = make_preferences(here.preferences, reference_folder, pairs, load_policy)
    reference = load_policy(reference_folder)
    world = World(job.seed, job.split, here.num_prompts, HeldOutSequences(reference, held_out(pairs)))
    found: dict[str, Any] = {
        **settings.identity(job),
        "made": {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
            **{name: version(name) for name in ("ganpo", "torch", "transformers")},
        },
        "pairs": {name: round(value, 4) for name, value in facts.items()},
    }
    ready = process_time()
    if job.configuration.run is None:
        samples = list(world.of_reference(reference))
        found["figures"] = world.figures(reference)
    else:
        run = folder / "runs" / job.configuration.name
        shutil.rmtree(run, ignore_errors=True)
        train(_run_file(job, reference_folder, pairs, run))
        found["training"] = _curve(run / "metrics.jsonl")
        trained = process_time()
        policy = load_policy(run / "policy")
        samples = list(world.of_policy(policy))
        if job.match_on_own:
            samples += world.matched_on_own(policy, reference)
        found["figures"] = world.figures(policy)
        if job.configuration.signals:
            # Its trunk is trained on, so it is a reference of its own.
            judge = make_reward_model(
                load_policy(reference_folder), pairs / FILES["train"], job.seed, settings.reward_model_steps,
                folder / "reward_model.safetensors",
            )
            critic = load_critic(run / "adversary", policy.config.hidden_size)
            found["correlations"] = compare_signals(world, policy, critic, judge)
        shutil.rmtree(run)
        found["made"]["training_cpu_seconds"] = round(trained - ready, 1)
    found["made"]["cpu_seconds"] = round(process_time() - began, 1)
    found["samples"] = [sampling.as_json() for sampling in samples]
    return found


def read_result(path: Path, identity: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """A saved result, or None where there is none made from `identity`. Raises GanpoError for a damaged file."""
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GanpoError(f"{path}: not a result of the lab ({error}); remove it to make it again") from error
    if identity is not None and any(found.get(key) != value for key, value in identity.items()):
        return None
    return found


def write_result(path: Path, found: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    lines = [f" {json.dumps(key)}: {_written(value)}" for key, value in found.items()]
    aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    aside.replace(path)


def say(message: str) -> None:
    """One line of progress."""
    print(message, file=sys.stderr, flush=True)


def _written(value: Any) -> str:
    """One line a sampling, so that a difference between two results can be read."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(entry)}" for entry in value) + "\n ]"
    return json.dumps(value)


def _run_file(job: Job, reference: Path, pairs: Path, output: Path) -> dict[str, Any]:
    assert job.configuration.run is not None
    run = {key: dict(section) for key, section in job.configuration.run.items()}
    run.setdefault("model", {})["path"] = str(reference)
    run["data"]["path"] = str(pairs / FILES["train"])
    return {**run, "seed": job.seed, "output_dir": str(output)}


def _curve(metrics: Path) -> list[dict[str, float]]:
    """What became of margins and critic, one entry a logging interval."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    wanted: Sequence[str] = (*KEPT, *(f"adversary/chosen/{name}" for name in SIDES))
    return [
        {"step": line["step"], **{name: round(line[name], 5) for name in wanted if name in line}}
        for line in lines
        if "rewards/margins" in line
    ]
