"""Two processes on a gloo group, replicated and sharded, against one."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from run_files import SMALL_GAME
from safetensors.torch import load_file
from vision_families import save_family, write_rows

import ganpo_core
from ganpo_core.errors import ConfigError

MakeRun = Callable[..., dict[str, Any]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port")
# With `--cpu`, accelerate starts one process, whatever --num_processes says: the environment asks for CPUs instead.
ACCELERATE = (
    "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port",
)  # fmt: skip


def launch(run_file: dict[str, Any], path: Path, *arguments: str, launcher: tuple[str, ...] = TORCHRUN) -> None:
    path.write_text(yaml.safe_dump(run_file))
    command = [sys.executable, "-m", *launcher, str(free_port()), "-m", "ganpo_core", "train", str(path), *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("preset", ["ganpo", "paper"])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_two_processes_are_one_with_twice_the_pairs(
    parallelism: str, preset: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    """2 processes x 2 pairs x 2 micro-batches equal 1 process x 8 pairs: policy, critics, moments and means."""
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    game = {**SMALL_GAME, "adversary": {"preset": preset, "weight_warmup_ratio": 0}}
    options = {"learning_rate": 1e-3, "max_steps": 3, "save_steps": None}
    one = tiny_run(model=model, **game, training={**options, "per_device_train_batch_size": 8})
    alone = ganpo_core.train({**one, "output_dir": str(tmp_path / "one")})
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "parallelism": parallelism}
    two = {**one, "training": {**options, **parts}, "output_dir": str(tmp_path / "two")}
    launch(two, tmp_path / "two.yaml")
    for name in ("policy.safetensors", "optimizer.safetensors", "adversary.safetensors"):
        ours = load_file(alone / "checkpoints" / "step-00000003" / name)
        theirs = load_file(tmp_path / "two" / "checkpoints" / "step-00000003" / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-9, msg=f"{name}: {key}")
    exported = load_file(tmp_path / "two" / "policy" / "model.safetensors")
    assert exported.keys() == load_file(alone / "policy" / "model.safetensors").keys()


@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_what_a_pair_must_know_of_the_others_comes_from_all_processes(
    parallelism: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    """A baseline, a running mean, a sort, a number of tokens and a divergence; and a reference that follows."""
    parts = [{"use": use} for use in ("kto", "bco", "aot", "aot_unpaired", "sft", "tdpo2")]
    options = {"learning_rate": 1e-2, "max_steps": 3, "save_steps": None, "sync_reference": {"every": 1}}
    one = tiny_run(
        model={"path": tiny_run()["model"]["path"], "dtype": "float64"},
        objective={"use": "weighted", "objectives": parts},
        training={**options, "per_device_train_batch_size": 6},
    )
    alone = ganpo_core.train({**one, "output_dir": str(tmp_path / "one")})
    split = {**options, "per_device_train_batch_size": 3, "parallelism": parallelism}
    launch({**one, "training": split, "output_dir": str(tmp_path / "two")}, tmp_path / "two.yaml")
    for name in ("policy.safetensors", "reference.safetensors"):
        ours = load_file(alone / "checkpoints" / "step-00000003" / name)
        theirs = load_file(tmp_path / "two" / "checkpoints" / "step-00000003" / name)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-9, msg=f"{name}: {key}")


UNEQUAL = """\
from dataclasses import dataclass, replace
from ganpo_core import Objective, component, hookimpl

@dataclass(frozen=True)
class Unequal(Objective):
    batch_statistics = {"long": "micro_batch", "every": "micro_batch"}

    def batch_values(self, policy, reference):
        margins = policy.chosen.total - reference.chosen.total + policy.chosen.length
        return {"long": margins[policy.chosen.length > 6], "every": margins}

    def loss(self, policy, reference):
        found = component("objective", "dpo").loss(policy, reference)
        every, own = policy.batch["every"], policy.chosen.total - reference.chosen.total + policy.chosen.length
        assert (every[: len(own)] - own).abs().max() < 1e-9
        distance = own - policy.batch["long"].sum() / max(len(policy.batch["long"]), 1)
        return replace(found, per_pair=found.per_pair + 0.1 * distance**2)

@hookimpl
def ganpo_objectives():
    return {"unequal": Unequal}
"""


def test_processes_may_give_unlike_numbers_of_values(tiny_run: MakeRun, tmp_path: Path) -> None:
    """The margins of long responses, of which a micro-batch has any number; and of all, this process's first."""
    (tmp_path / "unequal.py").write_text(UNEQUAL)
    options = {"learning_rate": 1e-2, "max_steps": 3, "save_steps": None}
    one = tiny_run(
        model={"path": tiny_run()["model"]["path"], "dtype": "float64"},
        objective={"use": "unequal"},
        plugins=[str(tmp_path / "unequal.py")],
        training={**options, "per_device_train_batch_size": 4},
    )
    alone = ganpo_core.train({**one, "output_dir": str(tmp_path / "one")})
    split = {**options, "per_device_train_batch_size": 2}
    launch({**one, "training": split, "output_dir": str(tmp_path / "two")}, tmp_path / "two.yaml")
    ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (alone, tmp_path / "two"))
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-9, msg=key)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp2"])
def test_shared_rows_in_two_processes_are_padded_rows_in_one(
    parallelism: str, dtype: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    """Layers run again in the backward pass there, and not here; bfloat16 is compared by its losses alone."""
    model = {"path": tiny_run()["model"]["path"], "dtype": dtype}
    game = {**SMALL_GAME, "adversary": {"weight_warmup_ratio": 0}}
    options = {"learning_rate": 1e-3, "max_steps": 3, "save_steps": None, "logging_steps": 1}
    one = tiny_run(model=model, **game, training={**options, "per_device_train_batch_size": 4, "packing": "padded"})
    alone = ganpo_core.train({**one, "output_dir": str(tmp_path / "one")})
    parts = {"per_device_train_batch_size": 2, "packing": "shared", "gradient_checkpointing": True}
    two = {**one, "training": {**options, **parts, "parallelism": parallelism}, "output_dir": str(tmp_path / "two")}
    launch(two, tmp_path / "two.yaml")
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (alone, tmp_path / "two")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6 if dtype == "float64" else 0.02)
    if dtype == "float64":
        ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (alone, tmp_path / "two"))
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-7, msg=key)


def test_two_processes_share_the_work_of_a_reference_cache_and_one_finds_it(tiny_run: MakeRun, tmp_path: Path) -> None:
    """48 rows of a sharded reference: 16 groups of 3 in 8 rounds."""
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    training = {"learning_rate": 1e-3, "max_steps": 2, "save_steps": None, "reference_cache": str(tmp_path / "cache")}
    two = {"per_device_train_batch_size": 3, "parallelism": "fsdp2"}
    launch(tiny_run(model=model, training={**training, **two}), tmp_path / "two.yaml")
    parts = list((tmp_path / "cache").glob("*/part-*"))
    assert [len(load_file(part / "logps.safetensors")) for part in parts] == [24, 24]
    one = tiny_run(model=model, training={**training, "per_device_train_batch_size": 6}, output_dir=str(tmp_path / "one"))
    alone = ganpo_core.train(one)
    assert sorted((tmp_path / "cache").glob("*/part-*")) == sorted(parts)
    ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (alone, tmp_path / "out"))
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-7, msg=key)


def test_a_token_budget_gives_every_process_as_many_passes(tiny_run: MakeRun, tmp_path: Path) -> None:
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    game = {**SMALL_GAME, "adversary": {"weight_warmup_ratio": 0}}
    options = {"learning_rate": 1e-3, "max_steps": 3, "save_steps": None}
    one = tiny_run(model=model, **game, training={**options, "per_device_train_batch_size": 8})
    alone = ganpo_core.train({**one, "output_dir": str(tmp_path / "one")})
    parts = {"per_device_train_batch_size": 4, "max_tokens_per_batch": 60, "parallelism": "fsdp2"}
    launch({**one, "training": {**options, **parts}, "output_dir": str(tmp_path / "two")}, tmp_path / "two.yaml")
    ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (alone, tmp_path / "two"))
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-7, msg=key)


def test_a_sharded_run_resumes_bit_for_bit(tiny_run: MakeRun, tmp_path: Path) -> None:
    options = {"learning_rate": 1e-3, "per_device_train_batch_size": 2, "parallelism": "fsdp2", "max_steps": 4}
    whole = tiny_run(**SMALL_GAME, training={**options, "save_steps": 2}, output_dir=str(tmp_path / "whole"))
    launch(whole, tmp_path / "whole.yaml")
    folder = tmp_path / "whole"
    finished = (folder / "policy" / "model.safetensors").read_bytes()
    for part in ("policy", "adversary", "checkpoints/step-00000004"):
        for path in (folder / part).iterdir():
            path.unlink()
        (folder / part).rmdir()
    launch(whole, tmp_path / "whole.yaml", "--resume")
    assert (folder / "policy" / "model.safetensors").read_bytes() == finished


def test_an_epoch_that_two_processes_began_ends_with_the_data_on_one(tiny_run: MakeRun, tmp_path: Path) -> None:
    """48 pairs, 2 x 4 a step: after step 2 of 6, 32 pairs are left, which are 8 steps of 4."""
    options = {
        "learning_rate": 1e-3, "num_train_epochs": 1.0, "per_device_train_batch_size": 4, "warmup_ratio": 0.0,
        "save_steps": 2, "save_total_limit": None, "logging_steps": 1,
    }  # fmt: skip
    run_file = tiny_run(**SMALL_GAME, training=options)
    launch(run_file, tmp_path / "two.yaml")
    folder = Path(run_file["output_dir"])
    for part in ("policy", "adversary", "checkpoints/step-00000004", "checkpoints/step-00000006"):
        shutil.rmtree(folder / part)
    ganpo_core.train(run_file, resume=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seen = [8, 16, *range(20, 49, 4)]
    assert [line["epoch"] for line in lines] == pytest.approx([pairs / 48 for pairs in seen])
    rates = [1e-3 * (1 + math.cos(math.pi * pairs / 48)) / 2 for pairs in [0, *seen[:-1]]]
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates, abs=1e-12)


def test_sharding_without_processes_is_refused(tiny_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"training\.parallelism: fsdp2 needs processes"):
        ganpo_core.train(tiny_run(training={"max_steps": 1, "parallelism": "fsdp2"}))


def test_queues_hold_the_references_of_all_processes(tiny_run: MakeRun, tmp_path: Path) -> None:
    """2 processes x 2 pairs see the references that 1 process x 4 pairs sees; the first step has no past to compare."""
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    distance = {"latents": {"use": "hidden_state"}, "divergence": {"use": "mmd", "queue": 6}}
    options = {"learning_rate": 1e-3, "max_steps": 2, "save_steps": None}
    one = tiny_run(model=model, **distance, training={**options, "per_device_train_batch_size": 4})
    alone = ganpo_core.train({**one, "output_dir": str(tmp_path / "one")})
    two = {**one, "training": {**options, "per_device_train_batch_size": 2}, "output_dir": str(tmp_path / "two")}
    launch(two, tmp_path / "two.yaml")
    ours, theirs = (
        load_file(folder / "checkpoints" / "step-00000002" / "adversary.safetensors") for folder in (alone, tmp_path / "two")
    )
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-9, atol=1e-12, msg=key)


def test_two_processes_that_see_are_one_with_twice_the_pairs(tiny_run: MakeRun, tmp_path: Path) -> None:
    """One pair a micro-batch, some without an image: what sees has its gradient in some of them, on one process or both."""
    model = {"path": str(save_family("llava", tmp_path / "model")), "dtype": "float64"}
    options = {"learning_rate": 1e-3, "max_steps": 3, "save_steps": None, "per_device_train_batch_size": 1}
    run = tiny_run(
        model=model, data={"path": str(write_rows(tmp_path))}, latents={"use": "projector"}, divergence={"use": "mse"},
        adversary={"weight": 1.0, "weight_warmup_ratio": 0},
    )
    folders = [tmp_path / name for name in ("one", "two")]
    ganpo_core.train({**run, "training": {**options, "gradient_accumulation_steps": 4}, "output_dir": str(folders[0])})
    two = {**run, "training": {**options, "gradient_accumulation_steps": 2}, "output_dir": str(folders[1])}
    launch(two, tmp_path / "two.yaml")
    alone, both = (load_file(folder / "policy" / "model.safetensors") for folder in folders)
    assert all(torch.allclose(alone[name], both[name], atol=1e-6) for name in alone)


def test_accelerate_launch_starts_the_run_that_torchrun_does(tiny_run: MakeRun, tmp_path: Path) -> None:
    """Two gloo processes, resumed half-way: the exported policy and critics are the same bytes."""
    training = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 2, "save_steps": 2}
    run_file = tiny_run(**SMALL_GAME, training=training)
    exported = {}
    for name, launcher in (("torchrun", TORCHRUN), ("accelerate", ACCELERATE)):
        folder = tmp_path / name
        launch({**run_file, "output_dir": str(folder)}, tmp_path / f"{name}.yaml", launcher=launcher)
        assert json.loads((folder / "card.json").read_text())["processes"] == 2
        for part in ("policy", "adversary", "checkpoints/step-00000004"):
            shutil.rmtree(folder / part)
        launch({**run_file, "output_dir": str(folder)}, tmp_path / f"{name}.yaml", "--resume", launcher=launcher)
        paths = [path for part in ("policy", "adversary") for path in (folder / part).glob("*.safetensors")]
        exported[name] = {path.relative_to(folder): path.read_bytes() for path in paths}
    assert len(exported["torchrun"]) == 4
    assert exported["torchrun"] == exported["accelerate"]
