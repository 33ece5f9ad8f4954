"""A run in padded, packed and shared rows: the same training, and a line where a layout is not possible."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

import ganpo_core
from ganpo_core.assemble import assemble
from ganpo_core.config import load_run
from ganpo_core.errors import ConfigError
from ganpo_core.metrics import MetricSums
from ganpo_core.run import Run
from ganpo_core.step import train_step

MakeRun = Callable[..., dict[str, Any]]

TRANSFORMER: dict[str, Any] = {
    "latents": {"use": "hidden_state", "layer": [1, -1]},
    "divergence": {"use": "ragan"},
    "discriminator": {"use": "transformer", "hidden_dim": 16, "num_heads": 2, "num_layers": 1, "dropout": 0.0},
    "adversary": {"weight_warmup_ratio": 0},
}


def made(run_file: dict[str, Any]) -> Run:
    return assemble(load_run(run_file), Accelerator(cpu=True))


def trained(run: Run, steps: int = 2) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Everything that training changes, and the metrics."""
    metrics = MetricSums(run.models.device)
    for step in range(steps):
        train_step(run, run.window(step), step, metrics)
    policy = {name: weight.detach().clone() for name, weight in run.models.trainable().items()}
    changed = policy | {f"adversary.{n}": t.detach().clone() for r in run.regularizers for n, t in r.tensors().items()}
    means = metrics.means(run.sum_over_processes)
    # In the first step policy and reference are one: who of two equal scores is ahead is a matter of rounding.
    return changed, {name: value for name, value in means.items() if not name.endswith(("accuracy", "accuracies"))}


def training(packing: str, **options: Any) -> dict[str, Any]:
    return {
        "learning_rate": 1e-3, "max_steps": 8, "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2,
        "packing": packing, **options,
    }  # fmt: skip


@pytest.mark.parametrize("packing", ["packed", "shared"])
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"objective": {"use": "simpo"}},
        {"objective": {"use": "kto"}},
        {"objective": {"use": "weighted", "objectives": [{"use": "dpo"}, {"use": "tdpo2"}, {"use": "sft"}]}},
        TRANSFORMER,
        {**TRANSFORMER, "objective": {"use": "simpo"}},
        {**TRANSFORMER, "adversary": {"preset": "paper", "weight_mode": "grad_ratio", "weight_warmup_ratio": 0}},
        {"latents": {"use": "pooled"}, "divergence": {"use": "mse"}},
    ],
    ids=["dpo", "simpo", "kto", "statistics", "ganpo", "ganpo_simpo", "paper_grad_ratio", "mse"],
)
def test_training_is_the_same_in_every_layout(packing: str, sections: dict[str, Any], tiny_run: MakeRun) -> None:
    """Policy, critics, means and metrics, the ratio of the two gradients at the latents among them."""
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    padded, expected = trained(made(tiny_run(model=model, training=training("padded"), **sections)))
    found, metrics = trained(made(tiny_run(model=model, training=training(packing), **sections)))
    assert found.keys() == padded.keys() and metrics.keys() == expected.keys()
    for name, values in padded.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6, msg=name)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("packing", ["packed", "shared"])
def test_single_responses_train_the_same_in_every_layout(packing: str, tiny_run: MakeRun, tmp_path: Path) -> None:
    lines = [
        {"prompt": f"w{row} w{row + 1}", "completion": " ".join([" w3"] * (row % 5 + 1)), "label": row % 3 > 0}
        for row in range(20)
    ]
    path = tmp_path / "single.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    sections = {**TRANSFORMER, "model": model, "objective": {"use": "kto"}, "data": {"path": str(path)}}
    padded, expected = trained(made(tiny_run(training=training("padded"), **sections)))
    found, metrics = trained(made(tiny_run(training=training(packing), **sections)))
    for name, values in padded.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6, msg=name)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("packing", ["padded", "packed", "shared"])
def test_gradient_checkpointing_changes_nothing(packing: str, tiny_run: MakeRun) -> None:
    plain, _ = trained(made(tiny_run(training=training(packing), **TRANSFORMER)))
    again, _ = trained(made(tiny_run(training=training(packing, gradient_checkpointing=True), **TRANSFORMER)))
    for name, values in plain.items():
        torch.testing.assert_close(again[name], values, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("packing", ["packed", "shared"])
def test_adapters_train_the_same_in_every_layout(packing: str, tiny_run: MakeRun, tiny_model: Path) -> None:
    """The reference is the policy with its adapters off, and the head is frozen: its gradient is known in the forward."""
    sections = {**TRANSFORMER, "model": {"path": str(tiny_model), "dtype": "float64", "lora": {"r": 2}}}
    padded, _ = trained(made(tiny_run(training=training("padded"), **sections)))
    run = made(tiny_run(training=training(packing), **sections))
    assert run.plan.head is not None and run.plan.packing == packing
    found, _ = trained(run)
    for name, values in padded.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6, msg=name)


def test_sharing_is_the_default_and_says_nothing(tiny_run: MakeRun) -> None:
    run = made(tiny_run())
    assert run.plan.packing == "shared" and not any("packing" in line or "logits" in line for line in run.notes)
    batch = run.window(0)[0]
    assert batch.layout.input_ids.shape == (1, sum(map(sum, batch.lengths)))
    assert made(tiny_run(training=training("padded"))).plan.packing == "padded"


def test_held_out_pairs_have_the_same_metrics_in_every_layout(tiny_run: MakeRun, tiny_pairs: Path) -> None:
    from ganpo_core.evaluate import evaluate

    data = {"path": str(tiny_pairs), "eval_path": str(tiny_pairs)}
    found = [
        evaluate(made(tiny_run(data=data, training=training(packing, per_device_eval_batch_size=5))))
        for packing in ("padded", "packed", "shared")
    ]
    assert found[0] and found[1] == pytest.approx(found[0], abs=1e-5) and found[2] == pytest.approx(found[0], abs=1e-5)


def test_a_killed_run_resumes_to_the_same_bits(tiny_run: MakeRun, tmp_path: Path) -> None:
    options = training("auto", max_steps=4, save_steps=2)
    straight = ganpo_core.train(tiny_run(**TRANSFORMER, training=options, output_dir=str(tmp_path / "whole")))
    finished = (straight / "policy" / "model.safetensors").read_bytes()
    for part in ("policy", "adversary", "checkpoints/step-00000004"):
        for path in (straight / part).iterdir():
            path.unlink()
        (straight / part).rmdir()
    ganpo_core.train(tiny_run(**TRANSFORMER, training=options, output_dir=str(straight)), resume=True)
    assert (straight / "policy" / "model.safetensors").read_bytes() == finished


def test_an_exported_model_does_not_ask_for_our_attention(tiny_run: MakeRun) -> None:
    from transformers import AutoModelForCausalLM

    folder = ganpo_core.train(tiny_run())
    assert "ganpo" not in (folder / "policy" / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(folder / "policy").config._attn_implementation == "sdpa"


def test_what_cannot_be_packed_is_padded_with_one_line_that_says_why(tiny_run: MakeRun) -> None:
    sections = {**TRANSFORMER, "adversary": {"preset": "official"}}
    run = made(tiny_run(**sections))
    lines = [line for line in run.notes if "packing" in line]
    assert run.plan.packing == "padded"
    assert lines == [
        "training.packing: padded rows, since adversary.masked: false scores padding, which packed rows do not have"
    ]
    with pytest.raises(ConfigError, match=r"training\.packing: shared is not possible here: .*; use auto or padded"):
        made(tiny_run(**sections, training=training("shared")))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_asked_for_packs_too(attention: str, tiny_run: MakeRun, tiny_model: Path) -> None:
    expected, _ = trained(made(tiny_run()))
    run = made(tiny_run(model={"path": str(tiny_model), "attention": attention}))
    assert run.plan.packing == "shared"
    found, _ = trained(run)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("packing", ["padded", "shared"])
@pytest.mark.parametrize("sections", [{}, {"objective": {"use": "kto"}}, TRANSFORMER], ids=["dpo", "kto", "ganpo"])
def test_a_token_budget_divides_a_step_and_changes_nothing(
    sections: dict[str, Any], packing: str, tiny_run: MakeRun
) -> None:
    model = {"path": tiny_run()["model"]["path"], "dtype": "float64"}
    whole, expected = trained(made(tiny_run(model=model, training=training(packing), **sections)))
    run = made(tiny_run(model=model, training=training(packing, max_tokens_per_batch=40), **sections))
    sizes = [(batch.layout.input_ids.numel(), batch.num_pairs) for batch in run.window(0)]
    assert sum(pairs for _, pairs in sizes) == 6 and len(sizes) > 2
    assert all(tokens <= 40 or pairs == 1 for tokens, pairs in sizes)
    found, metrics = trained(run)
    for name, values in whole.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6, msg=name)
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_token_budget_is_refused_where_micro_batches_mean_something(tiny_run: MakeRun) -> None:
    budget = training("auto", max_tokens_per_batch=80)
    with pytest.raises(ConfigError, match="max_tokens_per_batch: the objective compares the pairs of a micro-batch"):
        made(tiny_run(objective={"use": "aot"}, training=budget))
    with pytest.raises(ConfigError, match="max_tokens_per_batch: the critics' means or steps are counted by micro-batches"):
        made(tiny_run(**{**TRANSFORMER, "adversary": {"means_clock": "micro"}}, training=budget))
