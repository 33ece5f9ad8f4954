"""A run of ours under the same stopwatch: `python -m ganpo_bench.ours SPEC.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ganpo_bench.peer import Stopwatch
from ganpo_core import StepReport, hookimpl


class Observer:
    """Hands every finished step to the stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    @hookimpl
    def ganpo_step_finished(self, report: StepReport) -> None:
        """See Stopwatch.step_finished."""
        wanted = ("loss", "logps/chosen", "logps/rejected")
        self.watch.step_finished({name: report.metrics[name] for name in wanted})


def main(spec_path: str) -> None:
    """Train as the specification's run says, under orders."""
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    watch = Stopwatch()
    watch.wait()
    import torch

    from ganpo_core.config import load_run
    from ganpo_core.training import run_training

    torch.set_num_threads(spec["threads"])
    config = load_run(spec["run"])
    config.plugins.manager.register(Observer(watch), name="ganpo_bench_observer")
    run_training(config)


if __name__ == "__main__":
    main(sys.argv[1])
