"""The loop: batch, step, report, evaluate, save."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from ganpo_core.assemble import Run, assemble
from ganpo_core.checkpoint import FOLDER, export, restore_checkpoint, save_checkpoint
from ganpo_core.config import RunConfig
from ganpo_core.errors import CheckpointError
from ganpo_core.evaluate import evaluate
from ganpo_core.links import refuse_links
from ganpo_core.metrics import MetricSums
from ganpo_core.parallel import group_settings, refuse_other_engines
from ganpo_core.report import Reporter
from ganpo_core.step import train_step

SAVING = 6.0
"""How much longer than a pass the watchdog lets a save take: all processes wait while one writes."""


def run_training(config: RunConfig, resume: bool = False) -> Path:
    """Train as the run file says; returns the output folder. Raises GanpoError for what a user can fix."""
    _open_folder(config.output_dir, resume)
    refuse_other_engines(os.environ)
    accelerator = Accelerator(
        log_with=list(config.training.report_to) or None,
        project_dir=config.output_dir,
        kwargs_handlers=[group_settings(config.training.watchdog_seconds)],
    )
    run = assemble(config, accelerator)
    reporter, metrics = Reporter(run), MetricSums(run.models.device)
    for line in (*(line for report in run.reports for line in report.lines()), *run.notes):
        reporter.say(line)

    start = restore_checkpoint(run, metrics, reporter.say) if resume else 0
    if start == run.max_steps and (config.output_dir / "policy").is_dir():
        reporter.say(f"{config.output_dir}: finished after {start} steps; nothing to do")
        return config.output_dir
    if resume:
        reporter.say(f"resuming after step {start}" if start else "no checkpoint yet: starting from the beginning")
    if start == 0:
        reporter.write_card()
    reporter.start(start)

    with run.watchdog.watching():
        with reporter.progress(start) as advance:
            for step in range(start, run.max_steps):
                run.watchdog.step = step + 1
                train_step(run, run.window(step), step, metrics)
                _after_step(run, step + 1, metrics, reporter, advance)
        with run.watchdog.phase("save", patience=SAVING):
            export(run)
    # Not accelerator.end_training(): it destroys the process group under a model that still holds it, and a process
    # that then drops the model can wait for ever or abort (seen in one of some thirty two-process runs).
    for tracker in accelerator.trackers:
        tracker.finish()
    reporter.say(f"finished: {config.output_dir}")
    return config.output_dir


def _after_step(
    run: Run,
    step: int,
    metrics: MetricSums,
    reporter: Reporter,
    advance: Callable[[int, dict[str, float]], None],
) -> None:
    """Report, evaluate and save after `step` optimizer steps, where it is time to."""
    training, last = run.config.training, step == run.max_steps
    values: dict[str, float] = {}
    if step % training.logging_steps == 0 or last:
        values = metrics.means(run.sum_over_processes)
        values["learning_rate"] = float(run.scheduler.get_last_lr()[0])
        values["epoch"] = step * run.pairs_per_step / run.order.pairs_per_epoch
        metrics.clear()
        reporter.metrics(step, values)
        for line in (line for health in reporter.health for line in health.warnings(values)):
            reporter.say(line)
    if run.evaluation is not None and (last or (training.eval_steps and step % training.eval_steps == 0)):
        reporter.metrics(step, evaluate(run))
    reporter.finish_step(step, values)
    if last or (training.save_steps and step % training.save_steps == 0):
        with run.watchdog.phase("save", patience=SAVING):
            save_checkpoint(run, step, metrics)
    advance(step, values)


def _open_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder that holds a run, unless it is to be resumed."""
    held = [name for name in ("run.yaml", FOLDER, "policy") if (folder / name).exists()]
    if held and not resume:
        raise CheckpointError(
            f"output_dir: {folder} holds a run already ({', '.join(held)}); continue it with --resume, "
            "or choose another output_dir"
        )
    refuse_links(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"output_dir: {folder} cannot be made: {error}") from error
