"""YAML path or mapping -> RunConfig. Mistakes are collected, and raised together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ganpo_core.config.adversaries import PARTS, read_adversaries, resolved_plans
from ganpo_core.config.document import Document, document_of, read_document, split_override
from ganpo_core.config.paths import resolve_cache, resolve_output, resolve_paths
from ganpo_core.config.reading import Reading
from ganpo_core.config.rules import plan_notes, step_problems
from ganpo_core.config.run import RunConfig, options_of
from ganpo_core.config.sections import DataConfig, ModelConfig, TrainingConfig
from ganpo_core.errors import ConfigError
from ganpo_core.redact import redact_all
from ganpo_core.suggest import did_you_mean

SECTIONS = ("plugins", "seed", "model", "data", "objective", *PARTS, "adversaries", "training", "output_dir")
MAX_SEED = 2**32 - 1
"""What NumPy takes."""


def load_run(
    run: str | Path | Mapping[str, object],
    overrides: Mapping[str, object] | Sequence[str] = (),
    trust_remote_code: bool = False,
) -> RunConfig:
    """Resolve a run file (or a mapping of its shape) with overrides. Raises ConfigError with every mistake found."""
    if isinstance(run, Mapping):
        document, folder = document_of(run), Path.cwd()
    else:
        document, folder = read_document(Path(run)), Path(run).resolve().parent
    _override(document, overrides)
    return replace(_resolve(Reading(document, folder)), trust_remote_code=trust_remote_code)


def _override(document: Document, overrides: Mapping[str, object] | Sequence[str]) -> None:
    pairs: Iterable[tuple[str, object] | str] = overrides.items() if isinstance(overrides, Mapping) else overrides
    problems: list[str] = []
    for pair in pairs:
        try:
            path, value = split_override(pair) if isinstance(pair, str) else pair
            document.override(path, document_of({"value": value}).data["value"])
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _resolve(reading: Reading) -> RunConfig:
    for key in reading.document.data:
        if key not in SECTIONS and not key.startswith("x-"):
            reading.problem(key, f"{key}: unknown section.{did_you_mean(key, SECTIONS)} Known: {', '.join(SECTIONS)}")
    seed, output_dir = reading.scalar("seed", int, 0), reading.scalar("output_dir", str)
    model = reading.section("model", ModelConfig)
    data = reading.section("data", DataConfig)
    objective = reading.component("objective")
    plans = read_adversaries(reading)
    training = reading.section("training", TrainingConfig, required=False)

    model, data, wrong_paths = resolve_paths(model, data, reading.folder)
    output, wrong_output = resolve_output(output_dir, reading.folder)
    training, wrong_cache = resolve_cache(training, reading.folder)
    for path, message in (*wrong_paths, *wrong_output, *wrong_cache):
        reading.problem(path, message)
    if seed is not None and seed < 0:
        reading.problem("seed", f"seed: must be greater than or equal to 0, got {seed}")
    elif seed is not None and seed > MAX_SEED:
        reading.problem("seed", f"seed: must be at most {MAX_SEED}, got one of {seed.bit_length()} bits")
    for prefix, plan in plans.items():
        for where, message in step_problems(plan, training.gradient_accumulation_steps if training else 1):
            reading.problem(f"{prefix}{where}", f"{prefix}{message}")
    if reading.problems:
        raise ConfigError(reading.problems)

    assert seed is not None and model and data and objective and training and output
    resolved: dict[str, object] = {
        "plugins": reading.resolved_plugins(),
        "seed": seed,
        "model": options_of(model),
        "data": options_of(data),
        "objective": {"use": reading.document.get("objective.use"), **options_of(objective)},
        **resolved_plans(reading, plans),
        "training": options_of(training),
        "output_dir": str(output),
    }
    return RunConfig(
        seed=seed,
        model=model,
        data=data,
        objective=objective,
        adversaries=tuple(plan for plan in plans.values() if plan.config.weight > 0),
        training=training,
        output_dir=output,
        plugins=reading.plugins,
        resolved={key: redact_all(value) for key, value in resolved.items()},
        origins=reading.origins,
        notes=tuple(
            note for plan in plans.values() for note in plan_notes(plan, training.gradient_accumulation_steps)
        ),
    )
