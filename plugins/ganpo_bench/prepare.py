"""A shape or a run file becomes one folder of weights and rows, and a run for each variant."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganpo_bench.shapes import SHAPES, SPECIAL, Shape, write_model
from ganpo_core import ConfigError

LAYOUTS = ("padded", "packed", "shared")
METHODS = ("dpo", "ganpo", "simpo", "simpo_reference", "ganpo_simpo")
GAME = ("latents", "discriminator", "divergence", "adversary")
FOREVER = 1_000_000
LEARNING_RATE = 5e-7
BETA = 0.1


@dataclass(frozen=True)
class Job:
    """What is timed: rows in their order, and a run for each variant of ours."""

    name: str
    base: Mapping[str, Any]
    """A run of plain DPO, as a mapping."""
    pairs: int
    """Of a micro-batch."""
    accumulation: int
    critic: Mapping[str, Any]
    """The adversarial sections of a game."""

    @property
    def pairs_per_step(self) -> int:
        """Of an optimizer step."""
        return self.pairs * self.accumulation


def from_shape(
    name: str,
    lengths: NDArray[np.int64],
    folder: Path,
    dtype: str,
    checkpointing: bool,
    pairs: int | None,
    accumulation: int,
) -> Job:
    """Random weights and random rows of the lengths given, written to `folder`."""
    shape = SHAPES[name]
    if not (folder / "model" / "config.json").is_file():
        write_model(shape, folder / "model")
    write_rows(lengths, shape, folder / "rows.jsonl")
    base = {
        "model": {"path": str(folder / "model"), "dtype": dtype},
        "data": {"path": str(folder / "rows.jsonl"), "max_length": int(lengths.sum(axis=1).max())},
        "objective": {"use": "dpo", "beta": BETA},
        "training": {
            "gradient_checkpointing": checkpointing,
            "optim": "adamw_torch_fused",
        },
        "output_dir": str(folder / "run"),
    }
    return Job(name, base, pairs or shape.pairs, accumulation, papers_game(shape.critic_layers))


def from_run_file(path: Path) -> Job:
    """The model, the rows and the batches of a user's own run, with its adversary if it has one."""
    from ganpo_core.config import load_run

    config = load_run(path)
    if config.model.lora is not None:
        raise ConfigError(f"{path}: the peer trains all weights; leave `model.lora` out")
    resolved = copy.deepcopy(dict(config.resolved))
    game = {key: resolved.pop(key) for key in GAME if key in resolved} or papers_game(2)
    training = resolved["training"]
    assert isinstance(training, dict)
    pairs, accumulation = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    resolved["objective"] = {"use": "dpo", "beta": BETA}
    return Job(path.stem, resolved, pairs, accumulation, game)


def papers_game(layers: int) -> dict[str, Any]:
    """The paper's Transformer critics, of width 512, over the last hidden state at every position."""
    return {
        "latents": {"use": "hidden_state", "layer": -1, "positions": "all"},
        "discriminator": {"use": "transformer", "hidden_dim": 512, "num_layers": layers},
        "divergence": {"use": "ragan"},
        "adversary": {"weight": 1.0, "weight_warmup_ratio": 0.0},
    }


def run_of(job: Job, variant: str, folder: Path) -> dict[str, Any]:
    """The run file of a variant: a method, a layout, or both (`ganpo-packed`)."""
    method, layout = parse_variant(variant)
    run = copy.deepcopy(dict(job.base))
    run["training"] = {
        **run.get("training", {}),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_steps": FOREVER,
        "per_device_train_batch_size": job.pairs,
        "gradient_accumulation_steps": job.accumulation,
        "logging_steps": 1,
        "save_steps": None,
    }
    if layout is not None and has_layouts():
        run["training"]["packing"] = layout
    if "simpo" in method:
        run["objective"] = {"use": "simpo"}
    if method == "simpo_reference":
        run["plugins"] = [str(Path(__file__).with_name("with_reference.py"))]
        run["objective"] = {"use": "bench_simpo_with_reference"}
    if "ganpo" in method:
        run |= copy.deepcopy(dict(job.critic))
    run["output_dir"] = str(folder)
    return run


def parse_variant(variant: str) -> tuple[str, str | None]:
    """(method, layout or None). Raises ConfigError for what is neither."""
    method, _, layout = variant.partition("-") if variant not in LAYOUTS else ("dpo", "-", variant)
    if method not in METHODS or (layout and layout not in LAYOUTS):
        known = ", ".join((*METHODS, *LAYOUTS))
        raise ConfigError(
            f"--variants: '{variant}' is not known; combine a method and a layout, such as ganpo-packed: {known}"
        )
    if layout in ("packed", "shared") and not has_layouts():
        raise ConfigError(f"--variants: '{variant}': this version lays batches out in padded rows only")
    return method, layout or None


def has_layouts() -> bool:
    """Whether run files can choose how batches are laid out."""
    from ganpo_core.config import TrainingConfig

    return any(field.name == "packing" for field in dataclasses.fields(TrainingConfig))


def ordered_rows(job: Job, steps: int) -> tuple[list[dict[str, list[int]]], int]:
    """Token ids of the pairs of the first steps, in the order in which a run of ours takes them, and the padding id."""
    from ganpo_core.config import load_run
    from ganpo_core.data import PairOrder, load_pairs
    from ganpo_core.models import load_tokenizer

    config = load_run(run_of(job, "dpo", Path(str(job.base["output_dir"]))))
    tokenizer = load_tokenizer(config.model)
    pairs, _ = load_pairs(config.data, tokenizer)
    indices = PairOrder.of(pairs, config.seed).indices(0, steps * job.pairs_per_step)
    rows = [
        {"prompt": list(pair.prompt), "chosen": list(pair.chosen), "rejected": list(pair.rejected)}
        for pair in (pairs[index] for index in indices)
    ]
    return rows, int(tokenizer.pad_token_id)


def write_rows(lengths: NDArray[np.int64], shape: Shape, path: Path) -> None:
    """Random words, as many as the lengths say; the end of sequence, which the loader adds, is one of a response's."""
    draw = np.random.default_rng(1)

    def text(count: int) -> str:
        return "".join(f" t{token}" for token in draw.integers(len(SPECIAL), shape.config["vocab_size"], count))

    with path.open("w", encoding="utf-8") as file:
        for prompt, chosen, rejected in lengths.tolist():
            row = {
                "prompt": text(prompt).lstrip(),
                "chosen": text(max(1, chosen - 1)),
                "rejected": text(max(1, rejected - 1)),
            }
            file.write(json.dumps(row) + "\n")
