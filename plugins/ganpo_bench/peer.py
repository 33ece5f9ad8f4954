"""TRL's DPOTrainer under a stopwatch, in an interpreter of its own: `python peer.py SPEC.json`.

One file on purpose: it runs wherever torch, transformers, datasets and trl (0.25 or 1.16) are installed. Orders come
as JSON lines on standard input, `{"steps": k, "settle": true}` or `{"stop": true}`; each block of steps is answered with
one line.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

STATUS = Path("/proc/self/status")


class Stopwatch:
    """Times optimizer steps in blocks, and waits between them for the next order."""

    def __init__(self) -> None:
        # Libraries print; the lines of the protocol go where standard output went, and everything else to standard error.
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._seconds: list[float] = []
        self._facts: list[Mapping[str, float]] = []
        self._left = 0
        self._before: int | None = None
        self._started = 0.0

    def wait(self) -> None:
        """Read the next order; the process ends with `stop`, or with the one that gives the orders."""
        line = sys.stdin.readline()
        order = json.loads(line) if line else {"stop": True}
        if "stop" in order:
            os._exit(0)  # nothing is to be saved: no destructor, no export
        self._left, self._seconds, self._facts = int(order["steps"]), [], []
        if order["settle"]:
            self._before = settle_memory()
        self._started = time.perf_counter()

    def step_finished(self, facts: Mapping[str, float]) -> None:
        """Called after every optimizer step with its loss and log-probabilities."""
        synchronize()
        self._seconds.append(time.perf_counter() - self._started)
        self._facts.append({name: float(value) for name, value in facts.items()})
        self._left -= 1
        if self._left == 0:
            memory = {"before": self._before, "peak": peak_memory()}
            answer = {"seconds": self._seconds, "facts": self._facts, "memory": memory, "versions": versions()}
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()
            self.wait()
        self._started = time.perf_counter()


def settle_memory() -> int | None:
    """Give back what is free and start measuring the peak anew; returns the bytes in use, None where unknown."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    if not STATUS.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is resident
    return _status("VmRSS")


def peak_memory() -> int | None:
    """The most bytes in use since `settle_memory`."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return _status("VmHWM") if STATUS.exists() else None


def synchronize() -> None:
    """Wait for the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def versions() -> dict[str, str]:
    """What is installed here."""
    found = {}
    for name in ("torch", "transformers", "trl", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _status(key: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def import_trl() -> Any:
    """TRL; versions before 0.29 read transformers 5's answer on optional packages as a yes, and are told otherwise."""
    import transformers.utils.import_utils as optional

    answer = optional._is_package_available
    if isinstance(answer("torch"), tuple):

        def plain(name: str, return_version: bool = False) -> Any:
            found = answer(name, return_version=True) if return_version else answer(name)
            return found if return_version else found[0]

        optional._is_package_available = plain
        import trl.import_utils

        optional._is_package_available = answer
    import trl

    return trl


def rows_for(trl: Any, rows: list[dict[str, list[int]]]) -> Any:
    """The pairs under the column names of the version at hand."""
    from datasets import Dataset

    suffix = "_ids" if int(trl.__version__.split(".")[0]) else "_input_ids"
    return Dataset.from_list([{f"{side}{suffix}": ids for side, ids in row.items()} for row in rows])


def padding_tokenizer(pad_token_id: int) -> Any:
    """A tokenizer that knows how to pad, which is all that tokenized rows ask of it, in any version of transformers."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<pad>": pad_token_id}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<pad>", unk_token="<pad>")


def main(spec_path: str) -> None:
    """Train as the specification says, under orders."""
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    watch = Stopwatch()
    watch.wait()
    import torch

    torch.set_num_threads(spec["threads"])
    trl = import_trl()
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, TrainerCallback

    base: Any = trl.DPOTrainer

    class Trainer(base):  # type: ignore[misc]
        """Rows are tokenized already, and come in the order given."""

        losses: ClassVar[list[Any]] = []  # of the micro-batches of a step, each divided by their number

        def _prepare_dataset(self, dataset: Any, *args: Any, **options: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **options: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def training_step(self, *args: Any, **options: Any) -> Any:
            self.losses.append(super().training_step(*args, **options))
            return self.losses[-1]

    class Watched(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **options: Any) -> None:
            kept = getattr(trainer, "_metrics", None) or trainer._stored_metrics
            facts = {"loss": sum(float(loss) for loss in trainer.losses)}
            for name in ("logps/chosen", "logps/rejected"):
                facts[name] = statistics.fmean(float(value) for value in kept["train"][name][-len(trainer.losses) :])
            trainer.losses.clear()
            watch.step_finished(facts)

    wanted = {
        "output_dir": spec["output_dir"],
        "per_device_train_batch_size": spec["pairs"],
        "gradient_accumulation_steps": spec["accumulation"],
        "max_steps": 1_000_000,
        "learning_rate": spec["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "beta": spec["beta"],
        "max_length": None,
        "max_prompt_length": None,
        "max_completion_length": None,
        "gradient_checkpointing": spec["gradient_checkpointing"],
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": spec["dtype"] == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        "optim": spec["optim"],
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    known = trl.DPOConfig.__dataclass_fields__
    arguments = trl.DPOConfig(**{name: value for name, value in wanted.items() if name in known})
    policy, reference = (AutoModelForCausalLM.from_pretrained(spec["model"], dtype=torch.float32) for _ in range(2))
    if not hasattr(policy, "warnings_issued"):  # gone from transformers 5; older versions of TRL write to it
        policy.warnings_issued = {}
    trainer = Trainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=rows_for(trl, spec["rows"]),
        processing_class=padding_tokenizer(spec["pad_token_id"]),
        callbacks=[Watched()],
    )
    trainer.train()


if __name__ == "__main__":
    main(sys.argv[1])
