"""The loop: batch, step, report, save, evaluate."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from ganpo_core.assemble import assemble
from ganpo_core.checkpoint import export, is_exported, save_checkpoint
from ganpo_core.config import RunConfig
from ganpo_core.errors import NotFiniteError, StoppedError
from ganpo_core.evaluate import evaluate
from ganpo_core.folders import step_folders
from ganpo_core.interrupts import Interrupts
from ganpo_core.metrics import MetricSums
from ganpo_core.output import CHECKPOINTS, OutputFolder
from ganpo_core.parallel import group_settings, on_main, refuse_other_engines
from ganpo_core.randomness import kept_randomness, randomness
from ganpo_core.reference_cache import use_reference_cache
from ganpo_core.replay import write_bundle
from ganpo_core.report import METRICS, Reporter
from ganpo_core.resume import restore_checkpoint
from ganpo_core.run import Run
from ganpo_core.soundness import check_reference, check_weights
from ganpo_core.step import train_step

Advance = Callable[[int, dict[str, float]], None]

SAVING = 6.0
"""How much longer than a pass the watchdog lets a save take: all processes wait while one writes."""


def run_training(config: RunConfig, resume: bool = False, allow: Sequence[str] = ()) -> Path:
    """Train as the run file says; returns the output folder.

    Raises GanpoError for what a user can fix, and StoppedError, with everything saved, after SIGTERM or SIGINT.
    """
    refuse_other_engines(os.environ)
    accelerator = Accelerator(
        log_with=list(config.training.report_to) or None,
        project_dir=config.output_dir,
        kwargs_handlers=[group_settings(config.training.watchdog_seconds)],
    )
    held: list[OutputFolder] = []
    with Interrupts(several_processes=accelerator.num_processes > 1) as interrupts:
        try:
            on_main(accelerator, lambda: held.append(OutputFolder(config.output_dir, resume)))
            output = held[0] if held else OutputFolder.of_another_process(config.output_dir)
            _train(assemble(config, accelerator), output, interrupts, resume, allow)
        finally:
            for output in held:
                output.close()
    return config.output_dir


def _train(run: Run, output: OutputFolder, interrupts: Interrupts, resume: bool, allow: Sequence[str]) -> None:
    reporter, metrics = Reporter(run), MetricSums(run.models.device)
    for line in (output.note, *(line for report in run.reports for line in report.lines()), *run.notes):
        if line:
            reporter.say(line)

    use_reference_cache(run, reporter.say)
    start = restore_checkpoint(run, metrics, reporter.say, allow) if resume else 0
    if start == run.max_steps and is_exported(run):
        reporter.say(f"{output.path}: finished after {start} steps; nothing to do")
        return
    if resume and not start and is_exported(run):
        reporter.say(
            f"{output.path}: holds a finished policy/ and no checkpoint that can be used; nothing to do. Delete policy/ to "
            "train again from the beginning"
        )
        return
    check_weights(run)
    if resume:
        reporter.say(f"resuming after step {start}" if start else _beginning(output))
    reporter.write_card()
    reporter.start(start)

    interrupts.can_finish = True
    try:
        with run.watchdog.watching():
            _steps(run, start, output, metrics, interrupts, reporter)
            with run.watchdog.phase("save", patience=SAVING):
                export(run, output)
    finally:
        # Not accelerator.end_training(): it destroys the process group under a model that still holds it, and a process
        # that then drops the model can wait for ever or abort (seen in one of some thirty two-process runs).
        for tracker in run.accelerator.trackers:
            tracker.finish()
    reporter.say(f"finished: {output.path}")


def _beginning(output: OutputFolder) -> str:
    """What a resumed run says that no checkpoint could be taken from."""
    passed_over = len(step_folders(output.path / CHECKPOINTS))
    if not passed_over:
        return "no checkpoint yet: starting from the beginning"
    return (
        f"{passed_over} checkpoint{'s' * (passed_over > 1)} passed over, for the reasons above, and none is left: starting "
        f"from the beginning. {METRICS} starts anew too; a folder in {CHECKPOINTS}/ stays until its step comes again"
    )


def _steps(
    run: Run, start: int, output: OutputFolder, metrics: MetricSums, interrupts: Interrupts, reporter: Reporter
) -> None:
    with reporter.progress(start) as advance:
        if start:
            # Saved before it was evaluated: whether the process lived to do it is not in the checkpoint.
            _evaluate(run, start, reporter)
        for step in range(start, run.max_steps):
            run.watchdog.step = step + 1
            stop = _step(run, step, metrics, interrupts, reporter)
            _after_step(run, output, step + 1, metrics, reporter, advance, stop)


def _step(run: Run, step: int, metrics: MetricSums, interrupts: Interrupts, reporter: Reporter) -> int:
    """One step; returns the signal by which the run is to stop after it. A step that is not finite leaves a bundle."""
    before = randomness()
    try:
        stop = train_step(run, run.window(step), step, metrics, lambda: interrupts.number)
    except NotFiniteError as error:
        folder = write_bundle(run, step, before, error, reporter.say)
        if folder is None:
            raise
        raise NotFiniteError(f"{error}. Reproduce it with `ganpo replay {folder}`", error.found, error.rows) from error
    # Alone, nobody else must agree: a signal that came during the update counts too.
    return stop or (interrupts.number if run.accelerator.num_processes == 1 else 0)


def _after_step(
    run: Run,
    output: OutputFolder,
    step: int,
    metrics: MetricSums,
    reporter: Reporter,
    advance: Advance,
    stop: int,
) -> None:
    """Report, save and evaluate after `step` optimizer steps, where it is time to. Raises StoppedError for a signal."""
    training, last = run.config.training, step == run.max_steps
    values: dict[str, float] = {}
    if step % training.logging_steps == 0 or last:
        values = metrics.means(run.sum_over_processes)
        values["learning_rate"] = float(run.optimizer.param_groups[0]["lr"])
        values["epoch"] = run.place(step) / run.order.pairs_per_epoch
        metrics.clear()
        reporter.metrics(step, values)
        for line in (line for health in reporter.health for line in health.warnings(values)):
            reporter.say(line)
    reporter.finish_step(step, values)
    if last or stop or (training.save_steps and step % training.save_steps == 0):
        with run.watchdog.phase("save", patience=SAVING):
            save_checkpoint(run, output, step, metrics)
        reporter.check_spectral_norms()
    if stop and not last:
        raise StoppedError(stop, f"after step {step}, which is saved; continue with --resume")
    _evaluate(run, step, reporter)
    advance(step, values)


def _evaluate(run: Run, step: int, reporter: Reporter) -> None:
    """Held-out pairs, where it is time to; nothing that is drawn for them moves the training."""
    training = run.config.training
    due = step == run.max_steps or (training.eval_steps and step % training.eval_steps == 0)
    if run.evaluation is not None and due:
        check_reference(run)
        with kept_randomness():
            reporter.metrics(step, evaluate(run))
