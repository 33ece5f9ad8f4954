"""A reference that follows the policy, and experts that are kept in balance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import ganpo_core
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator())


def training(**options: Any) -> dict[str, Any]:
    return {
        "learning_rate": 1e-2, "max_steps": 4, "per_device_train_batch_size": 2, "save_steps": None, "logging_steps": 1,
        "warmup_ratio": 0.0, **options,
    }


def test_reference_moves_by_the_mixup_every_so_many_steps(tiny_run: MakeRun) -> None:
    """reference = 0.25 * policy + 0.75 * reference after the second step, and not after the first."""
    run = made(tiny_run(training=training(sync_reference={"every": 2, "mixup": 0.25})))
    assert run.models.reference is not None
    start = {name: weight.clone() for name, weight in run.models.reference.named_parameters()}
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    assert all(torch.equal(start[name], weight) for name, weight in run.models.reference.named_parameters())
    train_step(run, run.window(1), 1, metrics)
    policy = dict(run.models.policy.named_parameters())
    for name, weight in run.models.reference.named_parameters():
        torch.testing.assert_close(weight, 0.25 * policy[name] + 0.75 * start[name])
        assert not weight.requires_grad


def test_a_resumed_run_has_the_reference_it_had(tiny_run: MakeRun, tmp_path: Path) -> None:
    sync = {"every": 1, "mixup": 0.5}
    whole = tiny_run(training=training(sync_reference=sync), output_dir=str(tmp_path / "whole"))
    straight = ganpo_core.train(whole)
    run_file = tiny_run(training=training(sync_reference=sync, save_steps=2), output_dir=str(tmp_path / "parts"))
    run = made(run_file)
    from ganpo_core.checkpoint import save_checkpoint
    from ganpo_core.output import OutputFolder

    metrics = MetricSums(run.models.device)
    for step in range(2):
        train_step(run, run.window(step), step, metrics)
    metrics.clear()
    output = OutputFolder(run.config.output_dir, resume=True)
    save_checkpoint(run, output, 2, metrics)
    output.close()
    parts = ganpo_core.train(run_file, resume=True)
    last = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (straight, parts)]
    assert last[0] == last[1]


def test_there_must_be_a_reference_to_move(tiny_run: MakeRun, tiny_model: Path) -> None:
    moving = training(sync_reference={"every": 1})
    with pytest.raises(ConfigError, match=r"sync_reference: there is no reference to move: nothing reads a reference"):
        made(tiny_run(objective={"use": "simpo"}, training=moving))
    with pytest.raises(ConfigError, match=r"with `lora` the reference is the base model itself"):
        made(tiny_run(model={"path": str(tiny_model), "lora": {"r": 2}}, training=moving))
    with pytest.raises(ConfigError, match=r"training\.sync_reference\.mixup: must be"):
        made(tiny_run(training=training(sync_reference={"mixup": 1.5})))


@pytest.fixture(scope="module")
def tiny_experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mixture of four experts with the tiny model's tokenizer."""
    import shutil

    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("tiny_experts")
    for path in tiny_model.glob("tokenizer*"):
        shutil.copy(path, folder)
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=28, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, initializer_range=0.2,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def test_experts_are_balanced_where_it_is_asked_for(tiny_run: MakeRun, tiny_experts: Path) -> None:
    """The router's loss enters with its coefficient: loss = objective + 0.5 * router, and the router gets a gradient."""
    model = {"path": str(tiny_experts)}
    run = made(tiny_run(model=model, training=training(router_aux_loss_coef=0.5, gradient_accumulation_steps=2)))
    metrics = MetricSums(run.models.device)
    train_step(run, run.window(0), 0, metrics)
    found = metrics.means(lambda table: table)
    assert found["router_loss"] > 1  # 2 of 4 experts, each as often as the others, would be 2
    assert found["loss"] == pytest.approx(found["objective_loss"] + 0.5 * found["router_loss"], rel=1e-5)
    plain = made(tiny_run(model=model, training=training(gradient_accumulation_steps=2)))
    metrics = MetricSums(plain.models.device)
    train_step(plain, plain.window(0), 0, metrics)
    without = metrics.means(lambda table: table)
    assert "router_loss" not in without
    assert without["loss"] == pytest.approx(without["objective_loss"])
    moved = [dict(r.models.policy.named_parameters()) for r in (run, plain)]
    gates = [name for name in moved[0] if "gate." in name or "router" in name]
    assert gates and any(not torch.equal(moved[0][name], moved[1][name]) for name in gates)


def test_a_model_without_experts_has_none_to_balance(tiny_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="LlamaForCausalLM is no mixture of experts"):
        made(tiny_run(training=training(router_aux_loss_coef=0.1)))
