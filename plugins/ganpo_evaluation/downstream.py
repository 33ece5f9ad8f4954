"""`ganpo evaluate downstream`: tasks of lm-eval on a policy (Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganpo_core import ConfigError, GanpoError
from ganpo_evaluation.language_model import load_language_model
from ganpo_evaluation.results import Result, Row

NOTES = (
    "Each task's own measures and standard errors, as lm-eval reports them.",
    "The paper's list of tasks and its figures of Table 2 are not known here; choose with --tasks.",
)


def run_tasks(
    runs: Sequence[str],
    tasks: Sequence[str],
    include: Path | None,
    limit: int | None,
    batch_size: int,
    chat_template: bool,
    seed: int,
) -> Result:
    """Every task on every policy, through lm-eval's API. Raises GanpoError where it is not installed."""
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise GanpoError(
            f"evaluate downstream needs lm-eval ({error}); install it with `pip install 'ganpo[evaluation]'`"
        ) from error
    own = None if include is None else str(include.resolve())
    manager = TaskManager(include_path=own, include_defaults=include is None)
    if include is not None and any(task not in manager.all_tasks for task in tasks):
        manager = TaskManager(include_path=own)  # reading lm-eval's own thousands of files takes a while
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise ConfigError(f"--tasks: lm-eval has no task {', '.join(unknown)}; `lm-eval ls tasks` lists them")
    rows: list[Row] = []
    versions: dict[str, Any] = {}
    for run in runs:
        policy = load_language_model(run)
        wrapped = HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, batch_size=batch_size, max_length=policy.context)
        found = lm_eval.simple_evaluate(
            model=wrapped, tasks=list(tasks), limit=limit, task_manager=manager, apply_chat_template=chat_template,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
            bootstrap_iters=1000,
        )
        versions |= found["versions"]
        for task, measures in found["results"].items():
            rows += _rows(policy.name, task, measures)
    facts = {"versions": versions, "limit": limit, "lm_eval": lm_eval.__version__}
    return Result("downstream", "lm-eval", rows, (), NOTES, facts=facts)


def _rows(policy: str, task: str, measures: dict[str, Any]) -> list[Row]:
    """One for each measure: lm-eval's keys are `acc,none` and `acc_stderr,none`."""
    rows: list[Row] = []
    for key, value in measures.items():
        name, _, kind = key.partition(",")
        if isinstance(value, int | float) and kind and not name.endswith("_stderr"):
            error = measures.get(f"{name}_stderr,{kind}")
            rows.append({
                "policy": policy, "task": task, "measure": name if kind == "none" else f"{name}, {kind}",
                "value": float(value), "standard error": float(error) if isinstance(error, int | float) else None,
            })
    return rows


def draw(result: Result, figure: Any) -> None:
    """A group of bars for each task's first measure."""
    axes = figure.subplots()
    first = {(row["policy"], row["task"]): row for row in reversed(result.rows)}
    policies, tasks = (list(dict.fromkeys(row[key] for row in result.rows)) for key in ("policy", "task"))
    width = 0.8 / max(1, len(policies))
    for index, policy in enumerate(policies):
        own = [first[policy, task] for task in tasks]
        places = [place + index * width for place in range(len(tasks))]
        axes.bar(places, [row["value"] for row in own], width, label=policy, yerr=[row["standard error"] or 0 for row in own])
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(tasks))], [str(task) for task in tasks])
    axes.legend(frameon=False)
    axes.grid(axis="y", alpha=0.3)
